"""adaptive_avg_pool2d: averages over as many windows as are asked for."""

from __future__ import annotations

from typing import Any

import torch

from cnnext.backends import TORCH, choose
from cnnext.ops.arguments import new_empty
from cnnext.ops.pool2d_shape import batched
from cnnext.registration import OpSpec, declare


def adaptive_avg_pool2d(
    input: torch.Tensor, output_size: int | tuple[int | None, int | None] | list[int | None]
) -> torch.Tensor:
    """Average over P × Q windows that cover the input evenly.

    ``output[n, c, p, q]`` is the mean of rows ⌊p·H/P⌋ … ⌈(p + 1)·H/P⌉ − 1 and columns ⌊q·W/Q⌋ … ⌈(q + 1)·W/Q⌉ − 1.

    Args:
        input: shape (N, C, H, W) or (C, H, W); float32, float64, float16 or bfloat16.
        output_size: (P, Q), or an int for both; None keeps that size of the input.

    Returns:
        Shape (N, C, P, Q) or (C, P, Q), same dtype.

    Raises:
        TypeError: ``input`` is not a tensor, or ``output_size`` not made of integers and None.
        RuntimeError: wrong rank, a negative size, or an image without pixels (but its global average is NaN).

    16-bit inputs are summed in float32. channels_last is kept. The bits do not depend on the number of threads.
    Differentiable any number of times.
    Equivalent: ``torch.nn.functional.adaptive_avg_pool2d``. Source: "Dive into Deep Learning", section 8.6.
    """
    x, added = batched(input)
    size = _output_size(output_size, x)
    backend = choose("adaptive_avg_pool2d", x, adaptive_avg_pool2d, (), (size,))
    if backend is TORCH:
        return torch.nn.functional.adaptive_avg_pool2d(input, size)
    output = backend.ops.adaptive_avg_pool2d(x, size)
    return output.squeeze(0) if added else output


def _output_size(value: Any, input: torch.Tensor) -> tuple[int, int]:
    def is_size(item: Any) -> bool:
        return isinstance(item, (int, torch.SymInt)) and not isinstance(item, bool)

    if is_size(value):
        return value, value
    if not isinstance(value, (tuple, list)) or not all(item is None or is_size(item) for item in value):
        raise TypeError(f"argument `output_size` must be an int or a pair of ints or None, but got {value!r:.60}")
    if len(value) != 2:
        raise RuntimeError(f"argument `output_size` must have two entries, but got {value!r:.60}")
    h, w = (size if item is None else item for item, size in zip(value, input.shape[2:], strict=True))
    return h, w


def _fake(input: torch.Tensor, output_size: Any) -> torch.Tensor:
    if input.dim() != 4:
        raise RuntimeError(f"expected `input` with 4 dimensions, but got shape {list(input.shape)}")
    if len(output_size) != 2 or any(size < 0 for size in output_size):
        raise RuntimeError(f"expected `output_size` to be two integers of at least 0, but got {list(output_size)}")
    n, c, h, w = input.shape
    p, q = output_size
    if (h == 0 or w == 0) and (p != 1 or q != 1):
        raise RuntimeError(f"expected `input` with height and width of at least 1, but got shape {list(input.shape)}")
    return new_empty(input, (n, c, p, q))


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.input_size = inputs[0].shape


def _backward(ops: Any, ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    return ops.adaptive_avg_pool2d_backward(grad, ctx.input_size), None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.output_size = inputs[0].shape[2:]


def _backward_backward(ops: Any, ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    return ops.adaptive_avg_pool2d(grad, ctx.output_size), None


declare(
    OpSpec(name="adaptive_avg_pool2d", fake=_fake, save=_save, backward=_backward),
    OpSpec(
        name="adaptive_avg_pool2d_backward",
        fake=lambda grad, input_size: new_empty(grad, tuple(input_size)),
        save=_save_backward,
        backward=_backward_backward,
    ),
)
