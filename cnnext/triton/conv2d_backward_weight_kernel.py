# mypy: ignore-errors
"""conv2d, gradient of the weight, implicit GEMM.      gw[k, c, r, s] = Σ_{n,p,q} g[n, k, p, q] · x[n, c, h, w]
with h = p·stride_h − pad_h + r·dil_h, w likewise, per group.

Layout: g and x with any strides; partial is [SPLITS][K][C/G][R][S] in the type of the sums.
Idea: a GEMM of few outputs and long sums, k × (c, r, s) over all pixels: the pixels are cut into SPLITS shares, each of
which leaves its sums in a row of `partial`, and sum_partials adds the rows in order. No atomics: the same bits always.
The columns are ordered as the memory of x is: the channel fastest for NHWC (LAST), else the tap.
Limits: as forward.
"""

import triton
import triton.language as tl

from cnnext.triton.conv2d_prologue_kernel import channel_coefficients, normalised
from cnnext.triton.conv2d_tile_kernel import tile_of_program


@triton.jit
def conv2d_backward_weight_implicit_gemm_kernel(
    g_ptr, x_ptr, in_ptr, partial_ptr,
    pixels, pixels_each, height, width, out_height, out_width, group_c, group_k,
    g_n, g_k, g_p, g_q, x_n, x_c, x_h, x_w,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DIL_H: tl.constexpr, DIL_W: tl.constexpr,
    LAST: tl.constexpr, PROLOGUE: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A tile of BLOCK_M filters × BLOCK_N columns (c, r, s), over one share of the pixels."""
    columns = group_c * R * S
    block_m, block_n = tile_of_program(tl.program_id(0), tl.cdiv(group_k, BLOCK_M), tl.cdiv(columns, BLOCK_N), 8)
    group, split = tl.program_id(1), tl.program_id(2)
    if WIDE:
        group, split = group.to(tl.int64), split.to(tl.int64)
    begin = split * pixels_each
    end = tl.minimum(begin + pixels_each, pixels)
    offs_k = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k_mask, column_mask = offs_k < group_k, column < columns
    offs_k += group * group_k
    if LAST:
        c, tap = column % group_c, column // group_c
    else:
        c, tap = column // (R * S), column % (R * S)
    r, s = tap // S, tap % S
    g_ptr += offs_k[:, None] * g_k
    x_ptr += ((group * group_c + c) * x_c + r * (DIL_H * x_h) + s * (DIL_W * x_w))[None, :]

    wide: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    acc = tl.zeros((BLOCK_M, BLOCK_N), wide)
    if PROLOGUE:
        in_c, in_channels = group * group_c + c, tl.num_programs(1) * group_c
        center, scale, rest, offset = channel_coefficients(in_ptr, in_c, column_mask, in_channels)
    for start in range(begin, end, BLOCK_K):
        offs_m = start + tl.arange(0, BLOCK_K)
        m_mask = offs_m < end
        n, pixel = offs_m // (out_height * out_width), offs_m % (out_height * out_width)
        p, q = pixel // out_width, pixel % out_width
        g_offs = (n * g_n + p * g_p + q * g_q)[None, :]
        g_tile = tl.load(g_ptr + g_offs, mask=k_mask[:, None] & m_mask[None, :], other=0.0)
        h0, w0 = p * STRIDE_H - PAD_H, q * STRIDE_W - PAD_W
        mask = m_mask[:, None] & column_mask[None, :]
        if PAD_H > 0 or PAD_W > 0:
            h, w = h0[:, None] + (r * DIL_H)[None, :], w0[:, None] + (s * DIL_W)[None, :]
            mask &= (h >= 0) & (h < height) & (w >= 0) & (w < width)
        x_offs = (n * x_n + h0 * x_h + w0 * x_w)[:, None]
        x_tile = tl.load(x_ptr + x_offs, mask=mask, other=0.0)
        if PROLOGUE:
            x_tile = normalised(x_tile, mask, center, scale, rest, offset)
        acc = tl.dot(g_tile, x_tile, acc, input_precision=PRECISION)

    row = (split * tl.num_programs(1) * group_k + offs_k) * columns
    offs = row[:, None] + (c * (R * S) + tap)[None, :]
    tl.store(partial_ptr + offs, acc, mask=k_mask[:, None] & column_mask[None, :])
