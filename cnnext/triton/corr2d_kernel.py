# mypy: ignore-errors
"""corr2d, forward and backward.      y[p, q] = Σ_{r,s} x[p + r, q + s] · k[r, s]

Layout: all are [rows, columns] with any strides. float32 sums for 16-bit values, float64 for float64.
Idea: the gradient of x is the same sum with the taps counted backwards, y[h, w] = Σ_{r,s} g[h − r, w − s] · k[r, s],
where what lies outside g is zero: one kernel, with a sign. The gradient of k has few outputs with long sums: a program
takes a few taps and a share of the pixels.
Source: "Dive into Deep Learning", section 7.2.
"""

import triton
import triton.language as tl

from cnnext.triton.launch import Kernel, block


@triton.jit
def corr2d_windows_kernel(
    x_ptr, k_ptr, y_ptr,
    height, width, out_height, out_width, taps_r, taps_s,
    x_stride_h, x_stride_w, k_stride_r, k_stride_s,
    SIGN: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """A tile of outputs; SIGN is 1 for the forward pass and −1 for the gradient of x."""
    offs_p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    offs_q = tl.program_id(1) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    wide: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    acc = tl.zeros((BLOCK_P, BLOCK_Q), wide)
    for tap in range(taps_r * taps_s):
        r, s = tap // taps_s, tap % taps_s
        h, w = offs_p + SIGN * r, offs_q + SIGN * s
        inside = ((h >= 0) & (h < height))[:, None] & ((w >= 0) & (w < width))[None, :]
        offs = (h.to(tl.int64) * x_stride_h)[:, None] + (w.to(tl.int64) * x_stride_w)[None, :]
        x_tile = tl.load(x_ptr + offs, mask=inside, other=0.0).to(wide)
        acc += x_tile * tl.load(k_ptr + r * k_stride_r + s * k_stride_s).to(wide)
    offs = offs_p.to(tl.int64)[:, None] * out_width + offs_q[None, :]
    mask = (offs_p < out_height)[:, None] & (offs_q < out_width)[None, :]
    tl.store(y_ptr + offs, acc.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def corr2d_backward_kernel_kernel(
    g_ptr, x_ptr, partial_ptr,
    grad_width, pixels, taps, taps_s, pixels_each,
    g_stride_p, g_stride_q, x_stride_h, x_stride_w,
    BLOCK_T: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Σ g[p, q] · x[p + r, q + s] for a tile of taps over one share of the pixels (p, q)."""
    offs_t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    split = tl.program_id(1).to(tl.int64)
    begin = split * pixels_each
    end = tl.minimum(begin + pixels_each, pixels)
    r, s = (offs_t // taps_s)[:, None], (offs_t % taps_s)[:, None]
    wide: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    acc = tl.zeros((BLOCK_T,), wide)
    for start in range(begin, end, BLOCK_M):
        offs_m = start + tl.arange(0, BLOCK_M)
        m_mask = offs_m < end
        p, q = offs_m // grad_width, offs_m % grad_width
        g = tl.load(g_ptr + p * g_stride_p + q * g_stride_q, mask=m_mask, other=0.0).to(wide)
        x_offs = (p[None, :] + r) * x_stride_h + (q[None, :] + s) * x_stride_w
        x_tile = tl.load(x_ptr + x_offs, mask=m_mask[None, :] & (offs_t < taps)[:, None], other=0.0).to(wide)
        acc += tl.sum(x_tile * g[None, :], axis=1)
    tl.store(partial_ptr + split * taps + offs_t, acc, mask=offs_t < taps)


WINDOWS = Kernel(
    corr2d_windows_kernel,
    configs=tuple(
        triton.Config({"BLOCK_P": block_p, "BLOCK_Q": block_q}, num_warps=4)
        for block_p, block_q in ((4, 64), (8, 128), (16, 64))
    ),
    cost=lambda config, target, hints: abs(
        hints[0] * hints[1] / (2 * target.processors) - config.kwargs["BLOCK_P"] * config.kwargs["BLOCK_Q"]
    ),
    interpreted=lambda kind, hints: {"BLOCK_P": block(hints[0], 256), "BLOCK_Q": block(hints[1], 256)},
)
BACKWARD_KERNEL = Kernel(
    corr2d_backward_kernel_kernel,
    configs=tuple(
        triton.Config({"BLOCK_T": block_t, "BLOCK_M": block_m}, num_warps=4)
        for block_t, block_m in ((1, 1024), (4, 512), (16, 128))
    ),
    cost=lambda config, target, hints: abs(hints[0] - config.kwargs["BLOCK_T"]),
    interpreted=lambda kind, hints: {"BLOCK_T": block(hints[0], 64), "BLOCK_M": 1024},
)
