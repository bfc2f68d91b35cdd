"""conv2d in Triton: checks, outputs, the choice of the algorithm, registration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from cnnext.triton import conv2d_depthwise as depthwise
from cnnext.triton import conv2d_gemm as gemm
from cnnext.triton.conv2d_epilogue import Epilogue, Moments
from cnnext.triton.conv2d_shape import check_grad, conv2d_shape
from cnnext.triton.define import define
from cnnext.triton.tensors import any_channels_last, check_dtype, check_same, check_shape, empty

Ints = Sequence[int]
Geometry = tuple[Ints, Ints, Ints, int]


def convolve(
    input: torch.Tensor,
    weight: torch.Tensor,
    geometry: Geometry,
    epilogue: Epilogue,
    tf32: bool,
    prologue: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Moments | None]:
    """The convolution and whatever ``epilogue`` adds; with the moments of the output if it wants them and there is one.

    Args:
        input, weight: as in :func:`conv2d`.
        geometry: stride, padding, dilation, groups.
        epilogue: its ``residual`` may lie in memory as it likes.
        tf32: whether products of float32 may be made in TensorFloat-32.
        prologue: shape (4, C), coefficients of a norm; what is convolved is then the rectified normalised input.

    Raises:
        RuntimeError: shapes, values, dtypes or devices do not fit.
    """
    shape = conv2d_shape(input.shape, weight.shape, *geometry)
    check_same(input, "input", weight, "weight")
    check_dtype(input, "input")
    output = empty(input, (shape.n, shape.k, shape.p, shape.q), channels_last=any_channels_last(input, weight))
    bias, residual = epilogue.bias, epilogue.residual
    if bias is not None:
        check_shape(bias, "bias", (shape.k,))
        check_same(input, "input", bias, "bias")
        bias = bias.contiguous()
    if residual is not None:
        check_shape(residual, "residual", output.shape)
        check_same(residual, "residual", input, "input")
        if residual.stride() != output.stride():
            residual = torch.empty_like(output).copy_(residual)
    if output.numel() == 0:
        return output, None
    epilogue = replace(epilogue, bias=bias, residual=residual)
    if shape.is_depthwise:
        return output, depthwise.forward(input, weight, output, shape, epilogue, prologue)
    return output, gemm.forward(input, weight, output, shape, epilogue, tf32, prologue)


def conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    allow_tf32: bool,
    allow_winograd: bool,
) -> torch.Tensor:
    """The forward pass; ``allow_winograd`` changes nothing."""
    return convolve(input, weight, (stride, padding, dilation, groups), Epilogue(bias), allow_tf32)[0]


def conv2d_backward_input(
    grad: torch.Tensor,
    weight: torch.Tensor,
    input_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    allow_tf32: bool,
    allow_winograd: bool,
) -> torch.Tensor:
    """The gradient of the input, in the layout of ``grad`` or ``weight`` if one of them is channels_last."""
    shape = conv2d_shape(input_size, weight.shape, stride, padding, dilation, groups)
    check_grad(grad, shape)
    check_same(grad, "grad", weight, "weight")
    check_dtype(grad, "grad")
    grad_input = empty(grad, input_size, channels_last=any_channels_last(grad, weight))
    if grad_input.numel() == 0:
        return grad_input
    if shape.is_depthwise:
        depthwise.backward_input(grad, weight, grad_input, shape)
    else:
        gemm.backward_input(grad, weight, grad_input, shape, allow_tf32)
    return grad_input


def weight_gradient(
    grad: torch.Tensor,
    input: torch.Tensor,
    weight_size: Ints,
    geometry: Geometry,
    tf32: bool,
    prologue: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of weight and bias; arguments and errors as :func:`convolve`."""
    shape = conv2d_shape(input.shape, weight_size, *geometry)
    check_grad(grad, shape)
    check_same(grad, "grad", input, "input")
    check_dtype(grad, "grad")
    grad_weight, grad_bias = empty(grad, weight_size), empty(grad, (shape.k,))
    if grad.numel() == 0:
        return grad_weight.zero_(), grad_bias.zero_()
    if shape.is_depthwise:
        depthwise.backward_weight(grad, input, grad_weight, shape, prologue)
    else:
        gemm.backward_weight(grad, input, grad_weight, shape, tf32, prologue)
    depthwise.backward_weight(grad, None, grad_bias, shape)
    return grad_weight, grad_bias


def conv2d_backward_weight(
    grad: torch.Tensor,
    input: torch.Tensor,
    weight_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    allow_tf32: bool,
    allow_winograd: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of the weight and of the bias, contiguous; the same bits every time."""
    return weight_gradient(grad, input, weight_size, (stride, padding, dilation, groups), allow_tf32)


GEOMETRY = "int[2] stride, int[2] padding, int[2] dilation, int groups, bool allow_tf32, bool allow_winograd"
define(f"conv2d(Tensor input, Tensor weight, Tensor? bias, {GEOMETRY}) -> Tensor", conv2d)
define(
    f"conv2d_backward_input(Tensor grad, Tensor weight, SymInt[] input_size, {GEOMETRY}) -> Tensor",
    conv2d_backward_input,
)
define(
    f"conv2d_backward_weight(Tensor grad, Tensor input, SymInt[] weight_size, {GEOMETRY}) -> "
    "(Tensor grad_weight, Tensor grad_bias)",
    conv2d_backward_weight,
)
