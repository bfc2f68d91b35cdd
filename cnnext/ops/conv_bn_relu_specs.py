"""What autograd and torch.compile must know of the fused convolutions; their norms are in conv_bn_relu_norm.py.

The backward formulas are written with ops that have formulas themselves. No activation that a ReLU made is saved: where
one is needed, it is computed anew from the convolution's output before it.
"""

from __future__ import annotations

from typing import Any

import torch

from cnnext.ops.batch_norm import statistics_dtype
from cnnext.ops.conv2d_shape import conv_output_shape, empty_in_layout_of
from cnnext.ops.conv_bn_relu_norm import Parameters, check_channels, to_parameters
from cnnext.registration import OpSpec, declare

NORM = 5
"""Arguments of a prologue: mean, var, weight, bias and eps."""


def _statistics_fake(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *arguments: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    mean, var, in_weight, in_bias, _ = arguments[:NORM]
    check_channels(input, in_mean=mean, in_var=var, in_weight=in_weight, in_bias=in_bias)
    shape = conv_output_shape(input.shape, weight.shape, *arguments[NORM:])
    statistics = [input.new_empty((shape[1],), dtype=statistics_dtype(input)) for _ in range(2)]
    return empty_in_layout_of(input, weight, shape), statistics[0], statistics[1]


def _statistics_flops(input_shape: Any, weight_shape: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    n, k, p, q = out_shape[0]
    return 2 * n * k * p * q * weight_shape[1] * weight_shape[2] * weight_shape[3]


def _statistics_save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    input, weight, _, *norm, ctx.eps = inputs[: 3 + NORM]
    ctx.geometry = inputs[3 + NORM :]
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(input, weight, *norm)
    ctx.dtypes = [None if parameter is None else parameter.dtype for parameter in norm[2:]]


def _statistics_backward(ops: Any, ctx: Any, grad: torch.Tensor | None, *_: Any) -> tuple[Any, ...]:
    nothing = (None,) * (3 + NORM + len(ctx.geometry))
    if grad is None:
        return nothing
    input, weight, *norm = ctx.saved_tensors
    wants_input, wants_weight, wants_bias, _, _, *wants_norm = ctx.needs_input_grad[: 2 + NORM]
    grad_input = None
    grad_norm: Parameters = (None, None)
    if wants_input or any(wants_norm):
        grad_input = ops.conv2d_backward_input(grad, weight, input.shape, *ctx.geometry)
    if norm[0] is not None and grad_input is not None:
        grad_input, _, *sums = ops.batch_norm_relu_backward(grad_input, input, *norm, None, True, ctx.eps)
        grad_norm = to_parameters(sums, ctx.dtypes, wants_norm)
    grad_weight = grad_bias = None
    if (wants_weight or wants_bias) and norm[0] is None:
        grad_weight, grad_bias = ops.conv2d_backward_weight(grad, input, weight.shape, *ctx.geometry)
    elif wants_weight or wants_bias:
        grad_weight, grad_bias = ops.conv2d_backward_weight_prologue(
            grad, input, weight.shape, *norm, ctx.eps, *ctx.geometry
        )
    return (
        grad_input if wants_input else None,
        grad_weight if wants_weight else None,
        grad_bias if wants_bias else None,
        None,
        None,
        *grad_norm,
        None,
        *(None for _ in ctx.geometry),
    )


def _weight_fake(
    grad: torch.Tensor, input: torch.Tensor, weight_size: Any, *arguments: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    mean, var, in_weight, in_bias, _ = arguments[:NORM]
    check_channels(input, in_mean=mean, in_var=var, in_weight=in_weight, in_bias=in_bias)
    return grad.new_empty(weight_size), grad.new_empty((weight_size[0],))


def _weight_flops(grad_shape: Any, input_shape: Any, weight_size: Any, *_: Any, **__: Any) -> int:
    return _statistics_flops(None, weight_size, out_shape=(grad_shape,))


def _weight_save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, input, _, *norm, ctx.eps = inputs[: 3 + NORM]
    ctx.geometry = inputs[3 + NORM :]
    ctx.save_for_backward(grad, input, *norm)
    ctx.dtypes = [None if parameter is None else parameter.dtype for parameter in norm[2:]]


def _weight_backward(ops: Any, ctx: Any, grad_weight: torch.Tensor, grad_bias: torch.Tensor) -> tuple[Any, ...]:
    grad, input, *norm = ctx.saved_tensors
    wants_grad, wants_input, _, _, _, *wants_norm = ctx.needs_input_grad[: 2 + NORM]
    to_grad = to_input = None
    to_norm: Parameters = (None, None)
    if wants_grad:
        activation = ops.batch_norm_relu(input, *norm, None, True, ctx.eps)
        to_grad = ops.conv2d(activation, grad_weight, grad_bias, *ctx.geometry)
    if wants_input or any(wants_norm):
        to_activation = ops.conv2d_backward_input(grad, grad_weight, input.shape, *ctx.geometry)
        to_input, _, *sums = ops.batch_norm_relu_backward(to_activation, input, *norm, None, True, ctx.eps)
        to_norm = to_parameters(sums, ctx.dtypes, wants_norm)
    none = (None,) * len(ctx.geometry)
    return to_grad, to_input if wants_input else None, None, None, None, *to_norm, None, *none


def _residual_fake(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    relu: bool,
    *geometry: Any,
) -> torch.Tensor:
    shape = conv_output_shape(input.shape, weight.shape, *geometry)
    if residual is not None and tuple(residual.shape) != shape:
        raise RuntimeError(f"expected `residual` of shape {list(shape)}, but got shape {list(residual.shape)}")
    return empty_in_layout_of(input, weight, shape)


def _residual_flops(input_shape: Any, weight_shape: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return _statistics_flops(input_shape, weight_shape, out_shape=(out_shape,))


def _residual_save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    input, weight, _, _, ctx.relu, *ctx.geometry = inputs
    ctx.save_for_backward(input, weight, output if ctx.relu else None)


def _residual_backward(ops: Any, ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    input, weight, output = ctx.saved_tensors
    if ctx.relu:
        grad = torch.ops.aten.threshold_backward(grad, output, 0)
    wants_input, wants_weight, wants_bias, wants_residual = ctx.needs_input_grad[:4]
    grad_input = grad_weight = grad_bias = None
    if wants_input:
        grad_input = ops.conv2d_backward_input(grad, weight, input.shape, *ctx.geometry)
    if wants_weight:
        grad_weight, _ = ops.conv2d_backward_weight(grad, input, weight.shape, *ctx.geometry)
    if wants_bias:  # of a norm too: summed as exactly as in its own backward pass
        zeros = grad.new_zeros(weight.shape[:1], dtype=statistics_dtype(grad))
        sums = ops.batch_norm_relu_backward_sums(grad, grad, zeros, zeros, None, None, None, False, 1.0)
        grad_bias = sums[0].to(grad.dtype)
    return (
        grad_input,
        grad_weight,
        grad_bias,
        grad if wants_residual else None,
        None,
        *(None for _ in ctx.geometry),
    )


declare(
    OpSpec(
        name="conv2d_statistics",
        fake=_statistics_fake,
        save=_statistics_save,
        backward=_statistics_backward,
        flops=_statistics_flops,
    ),
    OpSpec(
        name="conv2d_backward_weight_prologue",
        fake=_weight_fake,
        save=_weight_save,
        backward=_weight_backward,
        flops=_weight_flops,
    ),
    OpSpec(
        name="conv2d_residual_relu",
        fake=_residual_fake,
        save=_residual_save,
        backward=_residual_backward,
        flops=_residual_flops,
    ),
)
