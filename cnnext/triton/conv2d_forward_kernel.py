# mypy: ignore-errors
"""conv2d, forward, implicit GEMM.      y[n, k, p, q] = Σ_{c,r,s} x[n, c, h, w] · weight[k, c, r, s] + bias[k]
with h = p·stride_h − pad_h + r·dil_h, w likewise, per group.

Layout: x, weight and y with any strides; a contiguous channel (NHWC) or row (NCHW) is what makes loads wide.
Idea: a tile of pixels × filters; the operand of gemm_m × gemm_k is never made, its addresses are. gemm_k is walked
tap by tap with the channels in blocks, so that where a pixel lies is found once a step; or, FLAT, as c·R·S + r·S + s
where few channels would leave most of a block empty (first layers, small groups).
Idea: PLAIN for 1×1 windows at stride 1: the pixels of an image (NCHW) or of the batch (NHWC) are the rows of a GEMM.
in_ptr: the PROLOGUE of conv2d_prologue_kernel.py. The epilogue: store_output of conv2d_tile_kernel.py.
Limits: 16-bit sums in float32; PRECISION "ieee" or "tf32" is for float32 operands. WIDE: 64-bit offsets.
"""

import triton
import triton.language as tl

from cnnext.triton.conv2d_prologue_kernel import channel_coefficients, normalised
from cnnext.triton.conv2d_tile_kernel import store_output, tile_of_program


@triton.jit
def conv2d_forward_implicit_gemm_kernel(
    x_ptr, w_ptr, in_ptr, bias_ptr, residual_ptr, y_ptr, moments_ptr, rows_ptr,
    pixels, height, width, out_height, out_width, group_c, group_k,
    x_n, x_c, x_h, x_w, w_k, w_c, w_r, w_s, y_n, y_k, y_p, y_q,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DIL_H: tl.constexpr, DIL_W: tl.constexpr,
    PLAIN: tl.constexpr, FLAT: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr, PROLOGUE: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, RELU: tl.constexpr, STATISTICS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A tile of BLOCK_M pixels × BLOCK_N filters of one group."""
    tiles_m = tl.cdiv(pixels, BLOCK_M)
    block_m, block_n = tile_of_program(tl.program_id(0), tiles_m, tl.cdiv(group_k, BLOCK_N), 8)
    group, image = tl.program_id(1), tl.program_id(2)
    if WIDE:
        block_m, group, image = block_m.to(tl.int64), group.to(tl.int64), image.to(tl.int64)
    offs_m = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    m_mask, n_mask = offs_m < pixels, offs_n < group_k
    if PLAIN:
        x_pixel = image * x_n + offs_m * x_w
        y_pixel = image * y_n + offs_m * y_q
    else:
        n, pixel = offs_m // (out_height * out_width), offs_m % (out_height * out_width)
        p, q = pixel // out_width, pixel % out_width
        h0, w0 = p * STRIDE_H - PAD_H, q * STRIDE_W - PAD_W
        x_pixel = n * x_n + h0 * x_h + w0 * x_w
        y_pixel = n * y_n + p * y_p + q * y_q
    x_ptr += group * group_c * x_c
    w_ptr += (group * group_k + offs_n)[None, :] * w_k

    wide: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    acc = tl.zeros((BLOCK_M, BLOCK_N), wide)
    blocks_c = tl.cdiv(group_c, BLOCK_K)
    steps = tl.cdiv(group_c * R * S, BLOCK_K) if FLAT else R * S * blocks_c
    for step in range(steps):
        if FLAT:
            offs = step * BLOCK_K + tl.arange(0, BLOCK_K)
            c, tap = offs // (R * S), offs % (R * S)
        else:
            tap = step // blocks_c
            c = (step - tap * blocks_c) * BLOCK_K + tl.arange(0, BLOCK_K)
        r, s = tap // S, tap % S  # [BLOCK_K] if FLAT, else scalars
        if WIDE:
            c = c.to(tl.int64)
        x_tap = c * x_c + (r * (DIL_H * x_h) + s * (DIL_W * x_w))
        w_tap = c * w_c + (r * w_r + s * w_s)
        mask = m_mask[:, None] & (c < group_c)[None, :]
        if PAD_H > 0 or PAD_W > 0:
            if FLAT:
                h, w = h0[:, None] + (r * DIL_H)[None, :], w0[:, None] + (s * DIL_W)[None, :]
            else:
                h, w = (h0 + r * DIL_H)[:, None], (w0 + s * DIL_W)[:, None]
            mask &= (h >= 0) & (h < height) & (w >= 0) & (w < width)
        x_tile = tl.load(x_ptr + x_pixel[:, None] + x_tap[None, :], mask=mask, other=0.0)
        if PROLOGUE:
            in_c, in_channels = group * group_c + c, tl.num_programs(1) * group_c
            center, scale, rest, offset = channel_coefficients(in_ptr, in_c, c < group_c, in_channels)
            x_tile = normalised(x_tile, mask, center, scale, rest, offset)
        w_tile = tl.load(w_ptr + w_tap[:, None], mask=(c < group_c)[:, None] & n_mask[None, :], other=0.0)
        acc = tl.dot(x_tile, w_tile, acc, input_precision=PRECISION)

    offs_k = group * group_k + offs_n
    store_output(
        acc, y_ptr, y_pixel[:, None] + (offs_k * y_k)[None, :], m_mask[:, None] & n_mask[None, :], offs_k, n_mask,
        bias_ptr, residual_ptr, moments_ptr, rows_ptr, image * tiles_m + block_m, tl.num_programs(2) * tiles_m,
        tl.minimum(pixels - block_m * BLOCK_M, BLOCK_M), tl.num_programs(1) * group_k,
        HAS_BIAS, HAS_RESIDUAL, RELU, STATISTICS,
    )  # fmt: skip
