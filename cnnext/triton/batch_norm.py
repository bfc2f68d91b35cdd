"""batch_norm in Triton: checks, outputs, launches, registration."""

from __future__ import annotations

import torch
import triton

from cnnext.ops.arguments import is_channels_last
from cnnext.triton import batch_norm_passes as passes
from cnnext.triton.batch_norm_checks import check_backward, check_forward, check_update
from cnnext.triton.batch_norm_kernel import MOMENTS, UPDATE
from cnnext.triton.batch_norm_shape import BatchNormShape, bits, contiguous
from cnnext.triton.define import define
from cnnext.triton.launch import launch
from cnnext.triton.tensors import accumulator_dtype, empty

Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def batch_norm(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    training: bool,
    eps: float,
) -> Outputs:
    """The normalised input, and in training the batch's mean and biased variance, else two empty tensors."""
    check_forward(input, weight, bias, running_mean, running_var, training, eps)
    wide = accumulator_dtype(input)
    output = empty(input, input.shape, channels_last=is_channels_last(input))
    mean, var = (empty(input, (input.shape[1] if training else 0,), wide) for _ in range(2))
    if input.numel() == 0:
        return output, mean.zero_(), var.zero_()
    shape = BatchNormShape.of(input)
    x = shape.dense(input)
    partial = None
    if training:
        partial = empty(x, (shape.splits, 2, shape.channels), torch.float64)
        launch(
            MOMENTS,
            x,
            shape.reduce_grid,
            {
                "x_ptr": x,
                "partial_ptr": partial,
                **shape.sizes(),
                "samples_each": shape.samples_each,
                **shape.strides(),
            },
            shape.wide(),
            shape.hints,
        )
    statistics = (mean, var) if training else (contiguous(running_mean), contiguous(running_var))
    values = passes.coefficients(x, weight, bias, *statistics, eps, shape, partial)
    passes.apply(x, shape, values, output)
    return output, mean, var


def batch_norm_backward(
    grad: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor | None,
    mean: torch.Tensor,
    var: torch.Tensor,
    training: bool,
    eps: float,
) -> Outputs:
    """The gradients of input, weight and bias; the same bits every time."""
    check_backward(grad, input, weight, mean, var, training, eps)
    grad_input = empty(input, input.shape, channels_last=is_channels_last(input))
    if input.numel() == 0:
        grad_weight, grad_bias = (empty(input, mean.shape, accumulator_dtype(input)).zero_() for _ in range(2))
        return grad_input, grad_weight, grad_bias
    shape, gate = BatchNormShape.of(input), passes.Gate()
    x, g = shape.dense(input), shape.dense(grad)
    mean, var = mean.contiguous(), var.contiguous()
    partial = passes.backward_sums(g, x, mean, shape, gate)
    values, grad_weight, grad_bias = passes.backward_coefficients(
        x, weight, mean, var, partial, shape.samples, training, eps
    )
    passes.backward_apply(g, x, shape, values, grad_input, training, gate)
    return grad_input, grad_weight, grad_bias


def batch_norm_update_(
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    count: int,
    momentum: float,
) -> None:
    """Move the running statistics towards the batch's, whose variance is made unbiased."""
    check_update(running_mean, running_var, mean, var, count)
    channels = running_mean.shape[0]
    if channels == 0:
        return
    launch(
        UPDATE,
        running_mean,
        lambda config: (triton.cdiv(channels, config["BLOCK"]),),
        {
            "running_mean_ptr": running_mean,
            "running_var_ptr": running_var,
            "mean_ptr": mean.contiguous(),
            "var_ptr": var.contiguous(),
            "channels": channels,
            "count": count,
            "momentum_bits": bits(momentum),
            "running_mean_c": running_mean.stride(0),
            "running_var_c": running_var.stride(0),
        },
        {},
    )


define(
    "batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, bool training, "
    "float eps) -> (Tensor output, Tensor mean, Tensor var)",
    batch_norm,
)
define(
    "batch_norm_backward(Tensor grad, Tensor input, Tensor? weight, Tensor mean, Tensor var, bool training, "
    "float eps) -> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)",
    batch_norm_backward,
)
define(
    "batch_norm_update_(Tensor(a!) running_mean, Tensor(b!) running_var, Tensor mean, Tensor var, SymInt count, "
    "float momentum) -> ()",
    batch_norm_update_,
)
