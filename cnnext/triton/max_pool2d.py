"""max_pool2d in Triton: checks, outputs, launches, registration."""

from __future__ import annotations

import torch

from cnnext.ops.arguments import is_channels_last
from cnnext.triton.define import define
from cnnext.triton.max_pool2d_kernel import BACKWARD, FORWARD, GATHER
from cnnext.triton.pool2d import Ints, Pool2dShape, over, pool2d_shape, pool2d_shape_from_output
from cnnext.triton.tensors import check_dtype, check_same_device, check_shape, empty, name_of, strides


def _tap_dtype(shape: Pool2dShape) -> torch.dtype:
    return torch.uint8 if shape.r * shape.s <= 256 else torch.int32


def _check_tap(tap: torch.Tensor, shape: Pool2dShape) -> None:
    check_shape(tap, "tap", shape.output)
    if tap.dtype != _tap_dtype(shape):
        raise RuntimeError(
            f"expected `tap` of dtype {name_of(_tap_dtype(shape))} for this kernel_size, but got {name_of(tap.dtype)}"
        )


def max_pool2d(
    input: torch.Tensor, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest value of every window, and its tap r·S + s: uint8 for up to 256 taps, else int32."""
    shape = pool2d_shape(input, kernel_size, stride, padding, dilation, ceil_mode)
    check_dtype(input, "input")
    last = is_channels_last(input)
    output = empty(input, shape.output, channels_last=last)
    tap = empty(input, shape.output, _tap_dtype(shape), channels_last=last)
    if output.numel():
        tensors = {"x_ptr": input, "y_ptr": output, "tap_ptr": tap, **strides("x", "nchw", input)}
        over(FORWARD, output, shape, last, tensors, {**shape.window(), **shape.taps()})
    return output, tap


def max_pool2d_backward(
    grad: torch.Tensor,
    tap: torch.Tensor,
    input_size: Ints,
    kernel_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
) -> torch.Tensor:
    """Every pixel's sum of the gradients of the windows it won; the same bits every time."""
    shape = pool2d_shape_from_output(input_size, "input_size", kernel_size, stride, padding, dilation, grad, "grad")
    _check_tap(tap, shape)
    check_same_device(grad, "grad", tap, "tap")
    check_dtype(grad, "grad")
    last = is_channels_last(grad)
    grad_input = empty(grad, shape.input, channels_last=last)
    if grad_input.numel():
        tensors = {"g_ptr": grad, "tap_ptr": tap, "gx_ptr": grad_input}
        steps = {**strides("g", "ncpq", grad), **strides("tap", "ncpq", tap)}
        over(BACKWARD, grad_input, shape, last, {**tensors, **steps}, {**shape.window(), **shape.windows()})
    return grad_input


def max_pool2d_gather(
    input: torch.Tensor, tap: torch.Tensor, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> torch.Tensor:
    """The value at every window's tap; 0 for a tap that is not inside the input."""
    shape = pool2d_shape_from_output(input.shape, "input", kernel_size, stride, padding, dilation, tap, "tap")
    _check_tap(tap, shape)
    check_same_device(input, "input", tap, "tap")
    check_dtype(input, "input")
    last = is_channels_last(input)
    output = empty(input, shape.output, channels_last=last)
    if output.numel():
        tensors = {"x_ptr": input, "tap_ptr": tap, "y_ptr": output}
        steps = {**strides("x", "nchw", input), **strides("tap", "ncpq", tap)}
        over(GATHER, output, shape, last, {**tensors, **steps}, shape.window())
    return output


WINDOW = "int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation"
define(f"max_pool2d(Tensor input, {WINDOW}, bool ceil_mode) -> (Tensor output, Tensor tap)", max_pool2d)
define(f"max_pool2d_backward(Tensor grad, Tensor tap, SymInt[] input_size, {WINDOW}) -> Tensor", max_pool2d_backward)
define(f"max_pool2d_gather(Tensor input, Tensor tap, {WINDOW}) -> Tensor", max_pool2d_gather)
