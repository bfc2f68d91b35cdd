# mypy: ignore-errors
"""conv2d with one input channel per group: k = c·MULTIPLIER + j.      All three passes, direct.

Layout: as the other convolution kernels; a tile is BLOCK_M pixels × BLOCK_N channels, wide in channels for NHWC.
Idea: without channels to sum over there is no GEMM, and the work is reading: each program keeps its pixels and channels
and walks the taps. The gradient of the input walks the windows over a pixel, never the zeros between them. The gradient
of the weight sums products over a share of the pixels, one tap a program, as the other kernel of that pass does;
without x it gives Σ g, the gradient of the bias, for every convolution.
Limits: sums in float32, in float64 for float64.
"""

import triton
import triton.language as tl

from cnnext.triton.conv2d_prologue_kernel import channel_coefficients, normalised
from cnnext.triton.conv2d_tile_kernel import store_output


@triton.jit
def conv2d_forward_depthwise_kernel(
    x_ptr, w_ptr, in_ptr, bias_ptr, residual_ptr, y_ptr, moments_ptr, rows_ptr,
    pixels, height, width, out_height, out_width, channels, multiplier,
    x_n, x_c, x_h, x_w, w_k, w_r, w_s, y_n, y_k, y_p, y_q,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DIL_H: tl.constexpr, DIL_W: tl.constexpr, WIDE: tl.constexpr,
    PROLOGUE: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, RELU: tl.constexpr, STATISTICS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """y[n, k, p, q] = Σ_{r,s} x[n, k / MULTIPLIER, h, w] · weight[k, 0, r, s] + bias[k]."""
    block_m, block_n = tl.program_id(0), tl.program_id(1)
    if WIDE:
        block_m, block_n = block_m.to(tl.int64), block_n.to(tl.int64)
    offs_m = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_k = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k_mask = offs_k < channels
    mask = (offs_m < pixels)[:, None] & k_mask[None, :]
    n, pixel = offs_m // (out_height * out_width), offs_m % (out_height * out_width)
    p, q = pixel // out_width, pixel % out_width
    h0, w0 = p * STRIDE_H - PAD_H, q * STRIDE_W - PAD_W
    x_ptr += (n * x_n + h0 * x_h + w0 * x_w)[:, None] + (offs_k // multiplier * x_c)[None, :]
    wide: tl.constexpr = tl.float64 if y_ptr.dtype.element_ty == tl.float64 else tl.float32
    acc = tl.zeros((BLOCK_M, BLOCK_N), wide)
    if PROLOGUE:
        in_c, in_channels = offs_k // multiplier, channels // multiplier
        center, scale, rest, offset = channel_coefficients(in_ptr, in_c, k_mask, in_channels)
    for tap in range(R * S):
        r, s = tap // S, tap % S
        h, w = h0 + r * DIL_H, w0 + s * DIL_W
        inside = (h >= 0) & (h < height) & (w >= 0) & (w < width)
        seen = mask & inside[:, None]
        x_tile = tl.load(x_ptr + (r * (DIL_H * x_h) + s * (DIL_W * x_w)), mask=seen, other=0.0)
        if PROLOGUE:
            x_tile = normalised(x_tile, seen, center, scale, rest, offset)
        weight = tl.load(w_ptr + offs_k * w_k + r * w_r + s * w_s, mask=k_mask, other=0.0)
        acc += x_tile.to(wide) * weight.to(wide)[None, :]
    offs = (n * y_n + p * y_p + q * y_q)[:, None] + (offs_k * y_k)[None, :]
    store_output(
        acc, y_ptr, offs, mask, offs_k, k_mask, bias_ptr, residual_ptr, moments_ptr, rows_ptr,
        block_m, tl.num_programs(0), tl.minimum(pixels - block_m * BLOCK_M, BLOCK_M), channels,
        HAS_BIAS, HAS_RESIDUAL, RELU, STATISTICS,
    )  # fmt: skip


@triton.jit
def conv2d_backward_input_depthwise_kernel(
    g_ptr, w_ptr, gx_ptr,
    pixels, height, width, out_height, out_width, channels, multiplier,
    g_n, g_k, g_p, g_q, w_k, w_r, w_s, gx_n, gx_c, gx_h, gx_w,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DIL_H: tl.constexpr, DIL_W: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """gx[n, c, h, w] = Σ g[n, k, p, q] · weight[k, 0, r, s], over the filters of c and the windows that see (h, w)."""
    block_m, block_n = tl.program_id(0), tl.program_id(1)
    if WIDE:
        block_m, block_n = block_m.to(tl.int64), block_n.to(tl.int64)
    offs_m = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_c = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (offs_m < pixels)[:, None] & (offs_c < channels)[None, :]
    n, pixel = offs_m // (height * width), offs_m % (height * width)
    h, w = pixel // width, pixel % width
    p_last, q_last = (h + PAD_H) // STRIDE_H, (w + PAD_W) // STRIDE_W
    WINDOWS_P: tl.constexpr = (R - 1) * DIL_H // STRIDE_H + 1
    WINDOWS_Q: tl.constexpr = (S - 1) * DIL_W // STRIDE_W + 1
    wide: tl.constexpr = tl.float64 if gx_ptr.dtype.element_ty == tl.float64 else tl.float32
    acc = tl.zeros((BLOCK_M, BLOCK_N), wide)
    for window in range(WINDOWS_P * WINDOWS_Q):
        p, q = p_last - window // WINDOWS_Q, q_last - window % WINDOWS_Q
        from_h, from_w = h + PAD_H - p * STRIDE_H, w + PAD_W - q * STRIDE_W  # ≥ 0
        r, s = from_h // DIL_H, from_w // DIL_W
        seen = (from_h % DIL_H == 0) & (r < R) & (p >= 0) & (p < out_height)
        seen &= (from_w % DIL_W == 0) & (s < S) & (q >= 0) & (q < out_width)
        for j in range(multiplier):
            k = (offs_c * multiplier + j)[None, :]
            seen_mask = mask & seen[:, None]
            g_tile = tl.load(g_ptr + (n * g_n + p * g_p + q * g_q)[:, None] + k * g_k, mask=seen_mask, other=0.0)
            w_tile = tl.load(w_ptr + k * w_k + (r * w_r + s * w_s)[:, None], mask=seen_mask, other=0.0)
            acc += g_tile.to(wide) * w_tile.to(wide)
    offs = (n * gx_n + h * gx_h + w * gx_w)[:, None] + (offs_c * gx_c)[None, :]
    tl.store(gx_ptr + offs, acc.to(gx_ptr.dtype.element_ty), mask=mask)


@triton.jit
def conv2d_backward_weight_depthwise_kernel(
    g_ptr, x_ptr, in_ptr, partial_ptr,
    pixels, pixels_each, height, width, out_height, out_width, channels, multiplier,
    g_n, g_k, g_p, g_q, x_n, x_c, x_h, x_w,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DIL_H: tl.constexpr, DIL_W: tl.constexpr,
    HAS_X: tl.constexpr, PROLOGUE: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """partial[split, k, r, s] = Σ g[n, k, p, q] · x[n, k / MULTIPLIER, h, w] over one share of the pixels (n, p, q)."""
    block_n, tap, split = tl.program_id(0) // (R * S), tl.program_id(0) % (R * S), tl.program_id(1)
    if WIDE:
        block_n, split = block_n.to(tl.int64), split.to(tl.int64)
    r, s = tap // S, tap % S
    offs_k = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k_mask = offs_k < channels
    begin = split * pixels_each
    end = tl.minimum(begin + pixels_each, pixels)
    wide: tl.constexpr = tl.float64 if g_ptr.dtype.element_ty == tl.float64 else tl.float32
    acc = tl.zeros((BLOCK_M, BLOCK_N), wide)
    if PROLOGUE:
        in_c, in_channels = offs_k // multiplier, channels // multiplier
        center, scale, rest, offset = channel_coefficients(in_ptr, in_c, k_mask, in_channels)
    for start in range(begin, end, BLOCK_M):
        offs_m = start + tl.arange(0, BLOCK_M)
        mask = (offs_m < end)[:, None] & k_mask[None, :]
        n, pixel = offs_m // (out_height * out_width), offs_m % (out_height * out_width)
        p, q = pixel // out_width, pixel % out_width
        g_offs = (n * g_n + p * g_p + q * g_q)[:, None] + (offs_k * g_k)[None, :]
        if HAS_X:
            h, w = p * STRIDE_H - PAD_H + r * DIL_H, q * STRIDE_W - PAD_W + s * DIL_W
            mask &= ((h >= 0) & (h < height) & (w >= 0) & (w < width))[:, None]
            x_offs = (n * x_n + h * x_h + w * x_w)[:, None] + (offs_k // multiplier * x_c)[None, :]
            x_tile = tl.load(x_ptr + x_offs, mask=mask, other=0.0)
            if PROLOGUE:
                x_tile = normalised(x_tile, mask, center, scale, rest, offset)
            acc += tl.load(g_ptr + g_offs, mask=mask, other=0.0).to(wide) * x_tile.to(wide)
        else:
            acc += tl.load(g_ptr + g_offs, mask=mask, other=0.0).to(wide)
    tl.store(partial_ptr + ((split * channels + offs_k) * (R * S) + tap), tl.sum(acc, axis=0), mask=k_mask)
