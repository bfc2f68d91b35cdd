"""avg_pool2d in Triton: checks, outputs, launches, registration."""

from __future__ import annotations

import torch

from cnnext.ops.arguments import is_channels_last
from cnnext.triton.avg_pool2d_kernel import BACKWARD, FORWARD
from cnnext.triton.define import define
from cnnext.triton.pool2d import Ints, Pool2dShape, over, pool2d_shape, pool2d_shape_from_output
from cnnext.triton.tensors import check_dtype, empty, strides


def _check_divisor(divisor_override: int | None) -> None:
    if divisor_override == 0:
        raise RuntimeError("expected `divisor_override` not to be 0")


def _constants(shape: Pool2dShape, count_include_pad: bool, divisor_override: int | None) -> dict[str, int]:
    window = {name: value for name, value in shape.window().items() if not name.startswith("DIL")}
    return {**window, "COUNT_PAD": count_include_pad, "HAS_DIVISOR": divisor_override is not None}


def avg_pool2d(
    input: torch.Tensor,
    kernel_size: Ints,
    stride: Ints,
    padding: Ints,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> torch.Tensor:
    """The mean of every window."""
    _check_divisor(divisor_override)
    shape = pool2d_shape(input, kernel_size, stride, padding, (1, 1), ceil_mode)
    check_dtype(input, "input")
    last = is_channels_last(input)
    output = empty(input, shape.output, channels_last=last)
    if output.numel():
        tensors = {"x_ptr": input, "y_ptr": output, "divisor": divisor_override or 0, **strides("x", "nchw", input)}
        constants = _constants(shape, count_include_pad, divisor_override)
        over(FORWARD, output, shape, last, tensors, {**constants, **shape.taps()})
    return output


def avg_pool2d_backward(
    grad: torch.Tensor,
    input_size: Ints,
    kernel_size: Ints,
    stride: Ints,
    padding: Ints,
    count_include_pad: bool,
    divisor_override: int | None,
) -> torch.Tensor:
    """Every pixel's share of the gradients of the windows that see it; the same bits every time."""
    _check_divisor(divisor_override)
    shape = pool2d_shape_from_output(input_size, "input_size", kernel_size, stride, padding, (1, 1), grad, "grad")
    check_dtype(grad, "grad")
    last = is_channels_last(grad)
    grad_input = empty(grad, shape.input, channels_last=last)
    if grad_input.numel():
        tensors = {"g_ptr": grad, "gx_ptr": grad_input, "divisor": divisor_override or 0}
        constants = _constants(shape, count_include_pad, divisor_override)
        steps = strides("g", "ncpq", grad)
        over(BACKWARD, grad_input, shape, last, {**tensors, **steps}, {**constants, **shape.windows()})
    return grad_input


WINDOW = "int[2] kernel_size, int[2] stride, int[2] padding"
DIVISOR = "bool count_include_pad, int? divisor_override"
define(f"avg_pool2d(Tensor input, {WINDOW}, bool ceil_mode, {DIVISOR}) -> Tensor", avg_pool2d)
define(f"avg_pool2d_backward(Tensor grad, SymInt[] input_size, {WINDOW}, {DIVISOR}) -> Tensor", avg_pool2d_backward)
