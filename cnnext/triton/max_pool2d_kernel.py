# mypy: ignore-errors
"""max_pool2d, forward, backward and gather.      y[n, c, p, q] = max of x[n, c, …] over its taps (r, s) inside x

Layout: outputs are dense, NCHW or NHWC (LAST), and a program takes BLOCK of their values in the order of the memory;
inputs have any strides.
tap[] is r·S + s of the winner: the first maximum in that order, or the last NaN, for a NaN wins over everything (both
as in torch).
Idea: with the taps the backward pass is a gather. Each pixel asks the windows over it whether it won, so that nothing
is added by atomics and the bits are the same every time.
Limits: TAPS_R, WINDOWS_P, … are the most that can lie inside the image, so that absurd windows end too.
"""

import triton
import triton.language as tl

from cnnext.triton.launch import Kernel
from cnnext.triton.pool2d_kernel import (
    CONFIGS,
    block_offsets,
    first_inside,
    place,
    pool_cost,
    pool_fits,
    pool_interpreted,
)


@triton.jit
def max_pool2d_forward_kernel(
    x_ptr, y_ptr, tap_ptr,
    count, channels, height, width, out_height, out_width, x_n, x_c, x_h, x_w,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DIL_H: tl.constexpr, DIL_W: tl.constexpr,
    TAPS_R: tl.constexpr, TAPS_S: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The largest value of BLOCK windows, and its tap."""
    offs = block_offsets(BLOCK, WIDE)
    n, c, p, q = place(offs, channels, out_height, out_width, LAST)
    h0, w0 = p * STRIDE_H - PAD_H, q * STRIDE_W - PAD_W
    first_r, first_s = first_inside(h0, DIL_H), first_inside(w0, DIL_W)
    plane = n * x_n + c * x_c
    wide: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    best = tl.full((BLOCK,), float("-inf"), wide)
    winner = first_r * S + first_s
    for step in range(TAPS_R * TAPS_S):
        r, s = first_r + step // TAPS_S, first_s + step % TAPS_S
        h, w = h0 + r * DIL_H, w0 + s * DIL_W
        inside = (offs < count) & (r < R) & (h < height) & (s < S) & (w < width)
        value = tl.load(x_ptr + plane + h * x_h + w * x_w, mask=inside, other=float("-inf")).to(wide)
        wins = inside & ((value > best) | (value != value))
        best = tl.where(wins, value, best)
        winner = tl.where(wins, r * S + s, winner)
    tl.store(y_ptr + offs, best.to(y_ptr.dtype.element_ty), mask=offs < count)
    tl.store(tap_ptr + offs, winner.to(tap_ptr.dtype.element_ty), mask=offs < count)


@triton.jit
def max_pool2d_backward_kernel(
    g_ptr, tap_ptr, gx_ptr,
    count, channels, height, width, out_height, out_width, g_n, g_c, g_p, g_q, tap_n, tap_c, tap_p, tap_q,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DIL_H: tl.constexpr, DIL_W: tl.constexpr,
    WINDOWS_P: tl.constexpr, WINDOWS_Q: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """gx[n, c, h, w] = Σ g[n, c, p, q] over the windows (p, q) that (h, w) won."""
    offs = block_offsets(BLOCK, WIDE)
    n, c, h, w = place(offs, channels, height, width, LAST)
    p_last = tl.minimum((h + PAD_H) // STRIDE_H, out_height - 1)
    q_last = tl.minimum((w + PAD_W) // STRIDE_W, out_width - 1)
    wide: tl.constexpr = tl.float64 if g_ptr.dtype.element_ty == tl.float64 else tl.float32
    total = tl.zeros((BLOCK,), wide)
    for step in range(WINDOWS_P * WINDOWS_Q):
        p, q = p_last - step // WINDOWS_Q, q_last - step % WINDOWS_Q
        from_h, from_w = h + PAD_H - p * STRIDE_H, w + PAD_W - q * STRIDE_W  # ≥ 0
        r, s = from_h // DIL_H, from_w // DIL_W
        seen = (offs < count) & (from_h % DIL_H == 0) & (r < R) & (p >= 0) & (from_w % DIL_W == 0) & (s < S) & (q >= 0)
        tap = tl.load(tap_ptr + n * tap_n + c * tap_c + p * tap_p + q * tap_q, mask=seen, other=0).to(tl.int32)
        won = seen & (tap == r * S + s)
        total += tl.load(g_ptr + n * g_n + c * g_c + p * g_p + q * g_q, mask=won, other=0.0).to(wide)
    tl.store(gx_ptr + offs, total.to(gx_ptr.dtype.element_ty), mask=offs < count)


@triton.jit
def max_pool2d_gather_kernel(
    x_ptr, tap_ptr, y_ptr,
    count, channels, height, width, out_height, out_width, x_n, x_c, x_h, x_w, tap_n, tap_c, tap_p, tap_q,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DIL_H: tl.constexpr, DIL_W: tl.constexpr,
    LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y[n, c, p, q] = x at the tap of window (p, q), or 0 where that is no tap inside the input."""
    offs = block_offsets(BLOCK, WIDE)
    n, c, p, q = place(offs, channels, out_height, out_width, LAST)
    mask = offs < count
    tap = tl.load(tap_ptr + n * tap_n + c * tap_c + p * tap_p + q * tap_q, mask=mask, other=0).to(tl.int32)
    h = p * STRIDE_H - PAD_H + tap // S * DIL_H
    w = q * STRIDE_W - PAD_W + tap % S * DIL_W
    inside = mask & (tap >= 0) & (tap < R * S) & (h >= 0) & (h < height) & (w >= 0) & (w < width)
    value = tl.load(x_ptr + n * x_n + c * x_c + h * x_h + w * x_w, mask=inside, other=0.0)
    tl.store(y_ptr + offs, value, mask=mask)


FORWARD = Kernel(max_pool2d_forward_kernel, CONFIGS, pool_fits, pool_cost, pool_interpreted)
BACKWARD = Kernel(max_pool2d_backward_kernel, CONFIGS, pool_fits, pool_cost, pool_interpreted)
GATHER = Kernel(max_pool2d_gather_kernel, CONFIGS, pool_fits, pool_cost, pool_interpreted)
