"""avg_pool2d: the mean of every window."""

from __future__ import annotations

from typing import Any

import torch

from cnnext.backends import TORCH, choose
from cnnext.ops.arguments import new_empty, pair
from cnnext.ops.max_pool2d import IntOrPair
from cnnext.ops.pool2d_shape import batched, pool_output_shape, require_bool, stride_pair, window_count
from cnnext.registration import OpSpec, declare


def avg_pool2d(
    input: torch.Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> torch.Tensor:
    """Average over windows.

    ``output[n, c, p, q] = Σ_{r,s} input[n, c, p·stride − padding + r, q·stride − padding + s] / divisor`` with zeros
    for what lies outside the input.

    Args:
        input: shape (N, C, H, W) or (C, H, W); float32, float64, float16 or bfloat16. Only N may be 0.
        kernel_size: taps of a window, an int or (height, width).
        stride: step between windows, an int or a pair; ``kernel_size`` if None.
        padding: how far the first window reaches out of the input; at most half of ``kernel_size``.
        ceil_mode: also take an incomplete last window, if it starts inside the input or its left padding.
        count_include_pad: the divisor is the number of taps inside the padded input; else inside the input.
        divisor_override: the divisor, instead; not 0.

    Returns:
        Shape (N, C, P, Q) or (C, P, Q) with P = ⌊(H + 2·padding − R) / stride⌋ + 1 (⌈⌉ with ``ceil_mode``), same
        dtype.

    Raises:
        TypeError: ``input`` is not a tensor, or an argument is not made of integers (bools).
        RuntimeError: wrong rank, an argument out of range, too much padding, or no window fits.

    16-bit inputs are summed in float32. channels_last is kept. The bits do not depend on the number of threads, in
    the backward pass too. Differentiable any number of times.
    Equivalent: ``torch.nn.functional.avg_pool2d``. Source: "Dive into Deep Learning", section 7.5.
    """
    x, added = batched(input)
    kernel = pair(kernel_size, "kernel_size")
    steps, pad = stride_pair(stride, kernel), pair(padding, "padding")
    require_bool(ceil_mode, "ceil_mode")
    require_bool(count_include_pad, "count_include_pad")
    _require_divisor(divisor_override)
    window = (kernel, steps, pad, ceil_mode, count_include_pad, divisor_override)
    backend = choose("avg_pool2d", x, avg_pool2d, (), window)
    if backend is TORCH:
        return torch.nn.functional.avg_pool2d(input, *window)
    output = backend.ops.avg_pool2d(x, *window)
    return output.squeeze(0) if added else output


def _require_divisor(value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, torch.SymInt))):
        raise TypeError(f"argument `divisor_override` must be an int or None, but got {value!r:.60}")


def _fake(
    input: torch.Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> torch.Tensor:
    if divisor_override == 0:
        raise RuntimeError("expected `divisor_override` not to be 0")
    return new_empty(input, pool_output_shape(input, kernel_size, stride, padding, (1, 1), ceil_mode))


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    input, *window, _ceil_mode, count_include_pad, divisor_override = inputs
    ctx.input_size = input.shape
    ctx.window = (*window, count_include_pad, divisor_override)


def _backward(ops: Any, ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    grad_input = ops.avg_pool2d_backward(grad, ctx.input_size, *ctx.window)
    return grad_input, None, None, None, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    grad, input_size, kernel_size, stride, padding, *divisor = inputs
    axes = zip(input_size[2:], kernel_size, stride, padding, grad.shape[2:], strict=True)
    ceil_mode = any(windows != window_count(size, taps, step, pad, 1, False) for size, taps, step, pad, windows in axes)
    ctx.forward_arguments = (kernel_size, stride, padding, ceil_mode, *divisor)


def _backward_backward(ops: Any, ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    return ops.avg_pool2d(grad, *ctx.forward_arguments), None, None, None, None, None, None


declare(
    OpSpec(name="avg_pool2d", fake=_fake, save=_save, backward=_backward),
    OpSpec(
        name="avg_pool2d_backward",
        fake=lambda grad, input_size, *window: new_empty(grad, tuple(input_size)),
        save=_save_backward,
        backward=_backward_backward,
    ),
)
