# mypy: ignore-errors
"""avg_pool2d and adaptive_avg_pool2d, forward and backward.      y[n, c, p, q] = Σ x[n, c, h, w] / divisor

Layout: outputs are dense, NCHW or NHWC (LAST), and a program takes a block of their values in the order of the memory;
inputs have any strides.
The divisor of window (p, q) is DIVISOR, or the number of its taps inside the padded image (COUNT_PAD), or inside the
image. Window i of an adaptive pool is [i·size / windows, ⌈(i + 1)·size / windows⌉).
Idea: the backward pass is a gather over the windows that see a pixel, the same bits every time. Adaptive windows may be
whole images: there a program sums BLOCK_T taps of each of its windows side by side.
Limits: sums in float32, in float64 for float64; TAPS_R, WINDOWS_P, … are the most that can lie inside the image.
"""

import triton
import triton.language as tl

from cnnext.triton.launch import Kernel, block
from cnnext.triton.pool2d_kernel import (
    CONFIGS,
    block_offsets,
    divide,
    first_inside,
    place,
    pool_cost,
    pool_fits,
    pool_interpreted,
)


@triton.jit
def window_divisor(
    h0, w0, height, width, divisor,
    R: tl.constexpr, S: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    COUNT_PAD: tl.constexpr, HAS_DIVISOR: tl.constexpr,
):  # fmt: skip
    """What the sum over a window that begins at (h0, w0) is divided by."""
    if HAS_DIVISOR:
        by = h0 * 0 + divisor
    elif COUNT_PAD:
        by = (tl.minimum(h0 + R, height + PAD_H) - h0) * (tl.minimum(w0 + S, width + PAD_W) - w0)
    else:
        rows = tl.minimum(h0 + R, height) - tl.maximum(h0, 0)
        by = rows * (tl.minimum(w0 + S, width) - tl.maximum(w0, 0))
    return by


@triton.jit
def avg_pool2d_forward_kernel(
    x_ptr, y_ptr,
    count, channels, height, width, out_height, out_width, divisor, x_n, x_c, x_h, x_w,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, TAPS_R: tl.constexpr, TAPS_S: tl.constexpr,
    COUNT_PAD: tl.constexpr, HAS_DIVISOR: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The mean of BLOCK windows."""
    offs = block_offsets(BLOCK, WIDE)
    n, c, p, q = place(offs, channels, out_height, out_width, LAST)
    h0, w0 = p * STRIDE_H - PAD_H, q * STRIDE_W - PAD_W
    first_r, first_s = first_inside(h0, 1), first_inside(w0, 1)
    wide: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    total = tl.zeros((BLOCK,), wide)
    for step in range(TAPS_R * TAPS_S):
        r, s = first_r + step // TAPS_S, first_s + step % TAPS_S
        h, w = h0 + r, w0 + s
        inside = (offs < count) & (r < R) & (h < height) & (s < S) & (w < width)
        total += tl.load(x_ptr + n * x_n + c * x_c + h * x_h + w * x_w, mask=inside, other=0.0).to(wide)
    by = window_divisor(h0, w0, height, width, divisor, R, S, PAD_H, PAD_W, COUNT_PAD, HAS_DIVISOR)
    tl.store(y_ptr + offs, divide(total, by.to(wide)).to(y_ptr.dtype.element_ty), mask=offs < count)


@triton.jit
def avg_pool2d_backward_kernel(
    g_ptr, gx_ptr,
    count, channels, height, width, out_height, out_width, divisor, g_n, g_c, g_p, g_q,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, WINDOWS_P: tl.constexpr, WINDOWS_Q: tl.constexpr,
    COUNT_PAD: tl.constexpr, HAS_DIVISOR: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """gx[n, c, h, w] = Σ g[n, c, p, q] / divisor over the windows (p, q) that see (h, w)."""
    offs = block_offsets(BLOCK, WIDE)
    n, c, h, w = place(offs, channels, height, width, LAST)
    p_last = tl.minimum((h + PAD_H) // STRIDE_H, out_height - 1)
    q_last = tl.minimum((w + PAD_W) // STRIDE_W, out_width - 1)
    wide: tl.constexpr = tl.float64 if g_ptr.dtype.element_ty == tl.float64 else tl.float32
    total = tl.zeros((BLOCK,), wide)
    for step in range(WINDOWS_P * WINDOWS_Q):
        p, q = p_last - step // WINDOWS_Q, q_last - step % WINDOWS_Q
        h0, w0 = p * STRIDE_H - PAD_H, q * STRIDE_W - PAD_W
        seen = (offs < count) & (p >= 0) & (h < h0 + R) & (q >= 0) & (w < w0 + S)
        g = tl.load(g_ptr + n * g_n + c * g_c + p * g_p + q * g_q, mask=seen, other=0.0).to(wide)
        by = window_divisor(h0, w0, height, width, divisor, R, S, PAD_H, PAD_W, COUNT_PAD, HAS_DIVISOR)
        total += divide(g, tl.where(seen, by, 1).to(wide))
    tl.store(gx_ptr + offs, total.to(gx_ptr.dtype.element_ty), mask=offs < count)


@triton.jit
def adaptive_avg_pool2d_forward_kernel(
    x_ptr, y_ptr,
    count, channels, height, width, out_height, out_width, taps_r, taps_s, x_n, x_c, x_h, x_w,
    LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """The mean of BLOCK_M windows of at most taps_r × taps_s."""
    offs = block_offsets(BLOCK_M, WIDE)
    n, c, p, q = place(offs, channels, out_height, out_width, LAST)
    h0, w0 = p * height // out_height, q * width // out_width
    rows, columns = tl.cdiv((p + 1) * height, out_height) - h0, tl.cdiv((q + 1) * width, out_width) - w0
    x_ptr += (n * x_n + c * x_c + h0 * x_h + w0 * x_w)[:, None]
    wide: tl.constexpr = tl.float64 if y_ptr.dtype.element_ty == tl.float64 else tl.float32
    acc = tl.zeros((BLOCK_M, BLOCK_T), wide)
    for start in range(0, taps_r * taps_s, BLOCK_T):
        tap = start + tl.arange(0, BLOCK_T)
        r, s = (tap // taps_s)[None, :], (tap % taps_s)[None, :]
        inside = (offs < count)[:, None] & (r < rows[:, None]) & (s < columns[:, None])
        acc += tl.load(x_ptr + r * x_h + s * x_w, mask=inside, other=0.0).to(wide)
    mean = divide(tl.sum(acc, axis=1), (rows * columns).to(wide))
    tl.store(y_ptr + offs, mean.to(y_ptr.dtype.element_ty), mask=offs < count)


@triton.jit
def adaptive_avg_pool2d_backward_kernel(
    g_ptr, gx_ptr,
    count, channels, height, width, out_height, out_width, windows_p, windows_q, g_n, g_c, g_p, g_q,
    LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """gx[n, c, h, w] = Σ g[n, c, p, q] / taps of (p, q), over the at most windows_p × windows_q windows that see it."""
    offs = block_offsets(BLOCK, WIDE)
    n, c, h, w = place(offs, channels, height, width, LAST)
    p_first, q_first = h * out_height // height, w * out_width // width
    p_end, q_end = tl.cdiv((h + 1) * out_height, height), tl.cdiv((w + 1) * out_width, width)
    wide: tl.constexpr = tl.float64 if g_ptr.dtype.element_ty == tl.float64 else tl.float32
    total = tl.zeros((BLOCK,), wide)
    for step in range(windows_p * windows_q):
        p, q = p_first + step // windows_q, q_first + step % windows_q
        seen = (offs < count) & (p < p_end) & (q < q_end)
        rows = tl.cdiv((p + 1) * height, out_height) - p * height // out_height
        columns = tl.cdiv((q + 1) * width, out_width) - q * width // out_width
        g = tl.load(g_ptr + n * g_n + c * g_c + p * g_p + q * g_q, mask=seen, other=0.0).to(wide)
        total += divide(g, tl.where(seen, rows * columns, 1).to(wide))
    tl.store(gx_ptr + offs, total.to(gx_ptr.dtype.element_ty), mask=offs < count)


def adaptive_cost(config, target, hints):
    """As many taps side by side as a window has, and neighbours in memory for a warp. Hints: (taps, LAST, windows)."""
    taps, last, _ = hints
    wanted = min(taps, 8 if last else 512)
    return abs(config.kwargs["BLOCK_T"] - wanted)


def adaptive_fits(config, target, kind, hints):
    """Whether few enough values are added one after the other not to lose digits."""
    return hints[0] <= 64 * config.kwargs["BLOCK_T"]


def adaptive_interpreted(kind, hints):
    """Blocks for the interpreter."""
    taps, _, windows = hints
    t = block(taps, 512)
    return {"BLOCK_M": block(windows, 2**17 // t), "BLOCK_T": t}


FORWARD = Kernel(avg_pool2d_forward_kernel, CONFIGS, pool_fits, pool_cost, pool_interpreted)
BACKWARD = Kernel(avg_pool2d_backward_kernel, CONFIGS, pool_fits, pool_cost, pool_interpreted)
ADAPTIVE_FORWARD = Kernel(
    adaptive_avg_pool2d_forward_kernel,
    configs=tuple(
        triton.Config({"BLOCK_M": block_m, "BLOCK_T": block_t}, num_warps=4)
        for block_m, block_t in ((1, 512), (4, 128), (64, 8), (256, 1), (32, 64))
    ),
    fits=adaptive_fits,
    cost=adaptive_cost,
    interpreted=adaptive_interpreted,
)
ADAPTIVE_BACKWARD = Kernel(adaptive_avg_pool2d_backward_kernel, CONFIGS, pool_fits, pool_cost, pool_interpreted)
