"""max_pool2d: the largest value of every window."""

from __future__ import annotations

from typing import Any

import torch

from cnnext.backends import TORCH, choose
from cnnext.ops.arguments import new_empty, pair
from cnnext.ops.pool2d_shape import batched, pool_output_shape, require_bool, stride_pair
from cnnext.registration import OpSpec, declare

IntOrPair = int | tuple[int, int] | list[int]


def max_pool2d(
    input: torch.Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Maximum over windows.

    ``output[n, c, p, q] = max_{r,s} input[n, c, p·stride − padding + r·dilation, q·stride − padding + s·dilation]``
    over the taps (r, s) that lie inside the input.

    Args:
        input: shape (N, C, H, W) or (C, H, W); float32, float64, float16 or bfloat16. Only N may be 0.
        kernel_size: taps of a window, an int or (height, width).
        stride: step between windows, an int or a pair; ``kernel_size`` if None.
        padding: how far the first window reaches out of the input; at most half of ``kernel_size``.
        dilation: step between the taps of a window.
        ceil_mode: also take an incomplete last window, if it starts inside the input or its left padding.
        return_indices: return where the maxima are, too.

    Returns:
        Shape (N, C, P, Q) or (C, P, Q) with P = ⌊(H + 2·padding − dilation·(R − 1) − 1) / stride⌋ + 1 (⌈⌉ with
        ``ceil_mode``), same dtype; with ``return_indices`` also their flat positions h·W + w, int64.

    Raises:
        TypeError: ``input`` is not a tensor, or an argument is not made of integers (bools).
        RuntimeError: wrong rank, an argument out of range, too much padding, or no window fits.

    The first of equal maxima wins, a NaN over everything. channels_last is kept. The backward pass is a gather: its
    bits do not depend on the number of threads. Differentiable any number of times.
    Equivalent: ``torch.nn.functional.max_pool2d``. Source: "Dive into Deep Learning", section 7.5.
    """
    x, added = batched(input)
    kernel = pair(kernel_size, "kernel_size")
    steps, pad, dil = stride_pair(stride, kernel), pair(padding, "padding"), pair(dilation, "dilation")
    require_bool(ceil_mode, "ceil_mode")
    require_bool(return_indices, "return_indices")
    backend = choose("max_pool2d", x, max_pool2d, (), (kernel, steps, pad, dil, ceil_mode, return_indices))
    if backend is TORCH:
        pool: Any = torch.nn.functional.max_pool2d  # its overloads know return_indices only as a literal
        return pool(input, kernel, steps, pad, dil, ceil_mode, return_indices)
    output, tap = backend.ops.max_pool2d(x, kernel, steps, pad, dil, ceil_mode)
    output = output.squeeze(0) if added else output
    if not return_indices:
        return output
    index = _flat_positions(tap, x.shape[3], kernel[1], steps, pad, dil)
    return output, index.squeeze(0) if added else index


def _flat_positions(
    tap: torch.Tensor, width: int, taps: int, stride: tuple[int, int], pad: tuple[int, int], dil: tuple[int, int]
) -> torch.Tensor:
    """From r·S + s inside a window to torch's h·W + w inside the image."""
    tap = tap.long()
    p = torch.arange(tap.shape[2], device=tap.device)[:, None]
    q = torch.arange(tap.shape[3], device=tap.device)
    h = torch.div(tap, taps, rounding_mode="floor") * dil[0] + (p * stride[0] - pad[0])
    w = tap % taps * dil[1] + (q * stride[1] - pad[1])
    return h * width + w


def _fake(
    input: torch.Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = pool_output_shape(input, kernel_size, stride, padding, dilation, ceil_mode)
    dtype = torch.uint8 if kernel_size[0] * kernel_size[1] <= 256 else torch.int32
    return new_empty(input, shape), new_empty(input, shape, dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    input, *ctx.window, _ceil_mode = inputs
    ctx.input_size = input.shape
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ops: Any, ctx: Any, grad: torch.Tensor | None, _tap: None) -> tuple[Any, ...]:
    (tap,) = ctx.saved_tensors
    grad_input = None if grad is None else ops.max_pool2d_backward(grad, tap, ctx.input_size, *ctx.window)
    return grad_input, None, None, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _grad, tap, _input_size, *ctx.window = inputs
    ctx.save_for_backward(tap)


def _backward_backward(ops: Any, ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    (tap,) = ctx.saved_tensors
    return ops.max_pool2d_gather(grad, tap, *ctx.window), None, None, None, None, None, None


def _save_gather(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    input, tap, *ctx.window = inputs
    ctx.input_size = input.shape
    ctx.save_for_backward(tap)


def _gather_backward(ops: Any, ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    (tap,) = ctx.saved_tensors
    return ops.max_pool2d_backward(grad, tap, ctx.input_size, *ctx.window), None, None, None, None, None


declare(
    OpSpec(name="max_pool2d", fake=_fake, save=_save, backward=_backward),
    OpSpec(
        name="max_pool2d_backward",
        fake=lambda grad, tap, input_size, *window: new_empty(grad, tuple(input_size)),
        save=_save_backward,
        backward=_backward_backward,
    ),
    OpSpec(
        name="max_pool2d_gather",
        fake=lambda input, tap, *window: new_empty(input, tuple(tap.shape)),
        save=_save_gather,
        backward=_gather_backward,
    ),
)
