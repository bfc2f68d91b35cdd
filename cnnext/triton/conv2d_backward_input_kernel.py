# mypy: ignore-errors
"""conv2d, gradient of the input, implicit GEMM.      gx[n, c, h, w] = Σ_{k,r,s} g[n, k, p, q] · weight[k, c, r, s]
over the taps with p·stride_h − pad_h + r·dil_h = h for a whole p in [0, P), and likewise q.

Layout: as forward, with g in the place of x and gx in that of y.
Idea: no zeros between the values of g. Pixels whose h and w leave the same remainders by the strides have the same
taps: such a phase is a GEMM of its own, over r = r0 + a·STEP_R with STEP_R = stride_h / gcd(stride_h, dil_h), for which
p falls by STEP_R·dil_h / stride_h from tap to tap. A phase without taps writes zeros.
Limits: as forward. gemm_k = k·(taps of the phase), tap by tap or FLAT.
"""

import triton
import triton.language as tl

from cnnext.triton.conv2d_tile_kernel import tile_of_program


@triton.jit
def first_tap(offset, STRIDE: tl.constexpr, DIL: tl.constexpr, STEP: tl.constexpr, TAPS: tl.constexpr):
    """The least r in [0, STEP) with (offset − r·DIL) divisible by STRIDE, else TAPS."""
    first = offset * 0 + TAPS
    for tap in tl.static_range(STEP):
        first = tl.where((offset - tap * DIL) % STRIDE == 0, tap, first)
    return first


@triton.jit
def conv2d_backward_input_implicit_gemm_kernel(
    g_ptr, w_ptr, gx_ptr,
    images, height, width, out_height, out_width, group_c, group_k,
    g_n, g_k, g_p, g_q, w_k, w_c, w_r, w_s, gx_n, gx_c, gx_h, gx_w,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DIL_H: tl.constexpr, DIL_W: tl.constexpr,
    STEP_R: tl.constexpr, STEP_S: tl.constexpr,
    FLAT: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A tile of BLOCK_M pixels of one phase × BLOCK_N input channels of one group."""
    phase_h, phase_w = tl.program_id(2) // STRIDE_W, tl.program_id(2) % STRIDE_W
    rows, columns = tl.cdiv(height - phase_h, STRIDE_H), tl.cdiv(width - phase_w, STRIDE_W)
    most = images * tl.cdiv(height, STRIDE_H) * tl.cdiv(width, STRIDE_W)  # of the largest phase: sizes the grid
    block_m, block_n = tile_of_program(tl.program_id(0), tl.cdiv(most, BLOCK_M), tl.cdiv(group_c, BLOCK_N), 8)
    group = tl.program_id(1)
    if WIDE:
        block_m, group = block_m.to(tl.int64), group.to(tl.int64)
    offs_m = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    m_mask, n_mask = offs_m < images * rows * columns, offs_n < group_c
    area, columns = tl.maximum(rows * columns, 1), tl.maximum(columns, 1)  # an image smaller than a stride has 0
    n, pixel = offs_m // area, offs_m % area
    h, w = pixel // columns * STRIDE_H + phase_h, pixel % columns * STRIDE_W + phase_w

    r0 = first_tap(phase_h + PAD_H, STRIDE_H, DIL_H, STEP_R, R)
    s0 = first_tap(phase_w + PAD_W, STRIDE_W, DIL_W, STEP_S, S)
    taps_s = tl.cdiv(S - s0, STEP_S)
    taps = tl.cdiv(R - r0, STEP_R) * taps_s
    p0, q0 = (h + PAD_H - r0 * DIL_H) // STRIDE_H, (w + PAD_W - s0 * DIL_W) // STRIDE_W  # exact where there are taps
    FALL_P: tl.constexpr = STEP_R * DIL_H // STRIDE_H
    FALL_Q: tl.constexpr = STEP_S * DIL_W // STRIDE_W
    g_pixel = n * g_n + p0 * g_p + q0 * g_q
    g_ptr += group * group_k * g_k
    w_ptr += group * group_k * w_k + r0 * w_r + s0 * w_s + offs_n[None, :] * w_c

    wide: tl.constexpr = tl.float64 if g_ptr.dtype.element_ty == tl.float64 else tl.float32
    acc = tl.zeros((BLOCK_M, BLOCK_N), wide)
    blocks_k = tl.cdiv(group_k, BLOCK_K)
    steps = tl.cdiv(group_k * taps, BLOCK_K) if FLAT else taps * blocks_k
    for step in range(steps):
        if FLAT:
            offs = step * BLOCK_K + tl.arange(0, BLOCK_K)
            k, tap = offs // taps, offs % taps
        else:
            tap = step // blocks_k
            k = (step - tap * blocks_k) * BLOCK_K + tl.arange(0, BLOCK_K)
        a, b = tap // taps_s, tap % taps_s  # [BLOCK_K] if FLAT, else scalars
        if WIDE:
            k = k.to(tl.int64)
        g_tap = k * g_k - (a * (FALL_P * g_p) + b * (FALL_Q * g_q))
        w_tap = k * w_k + (a * (STEP_R * w_r) + b * (STEP_S * w_s))
        if FLAT:
            p, q = p0[:, None] - (a * FALL_P)[None, :], q0[:, None] - (b * FALL_Q)[None, :]
        else:
            p, q = (p0 - a * FALL_P)[:, None], (q0 - b * FALL_Q)[:, None]
        mask = m_mask[:, None] & (p >= 0) & (p < out_height) & (q >= 0) & (q < out_width) & (k < group_k)[None, :]
        g_tile = tl.load(g_ptr + g_pixel[:, None] + g_tap[None, :], mask=mask, other=0.0)
        w_tile = tl.load(w_ptr + w_tap[:, None], mask=(k < group_k)[:, None] & n_mask[None, :], other=0.0)
        acc = tl.dot(g_tile, w_tile, acc, input_precision=PRECISION)

    gx_pixel = n * gx_n + h * gx_h + w * gx_w
    offs = gx_pixel[:, None] + ((group * group_c + offs_n) * gx_c)[None, :]
    tl.store(gx_ptr + offs, acc.to(gx_ptr.dtype.element_ty), mask=m_mask[:, None] & n_mask[None, :])
