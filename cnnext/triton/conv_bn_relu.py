"""The fused convolutions in Triton: a norm and a ReLU on the way in, statistics, residual and ReLU on the way out.

The kernels are those of conv2d, with their prologue (``conv2d_prologue_kernel.py``) and epilogue
(``conv2d_tile_kernel.py``); the norms of the fused layer are in conv_bn_relu_norm.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cnnext.triton.batch_norm_checks import check_eps, check_parameters
from cnnext.triton.batch_norm_passes import coefficients
from cnnext.triton.conv2d import GEOMETRY, convolve, weight_gradient
from cnnext.triton.conv2d_epilogue import Epilogue
from cnnext.triton.define import define
from cnnext.triton.tensors import accumulator_dtype, check_rank, empty

Ints = Sequence[int]
Optional = torch.Tensor | None


def prologue_of(
    input: torch.Tensor, mean: Optional, var: Optional, weight: Optional, bias: Optional, eps: float
) -> Optional:
    """The coefficients (4, C) of the norm in front of a convolution; None where there is none.

    Raises:
        RuntimeError: its arguments do not fit ``input``.
    """
    if (mean is None) != (var is None):
        raise RuntimeError("expected `in_mean` and `in_var` both or neither")
    if mean is None or var is None:
        if weight is not None or bias is not None:
            raise RuntimeError("expected `in_mean` and `in_var` where there is an `in_weight` or an `in_bias`")
        return None
    check_rank(input, "input", 4)
    check_eps(eps, True)
    check_parameters(input, in_mean=mean, in_var=var)
    check_parameters(input, in_weight=weight, in_bias=bias)
    return coefficients(input, weight, bias, mean.contiguous(), var.contiguous(), eps)


def conv2d_statistics(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: Optional,
    in_mean: Optional,
    in_var: Optional,
    in_weight: Optional,
    in_bias: Optional,
    in_eps: float,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    allow_tf32: bool,
    allow_winograd: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The convolution of the input, or of what a norm and a ReLU make of it; its mean and biased variance."""
    prologue = prologue_of(input, in_mean, in_var, in_weight, in_bias, in_eps)
    geometry = (stride, padding, dilation, groups)
    output, moments = convolve(input, weight, geometry, Epilogue(bias, statistics=True), allow_tf32, prologue)
    if moments is None:
        mean, var = (empty(input, (weight.shape[0],), accumulator_dtype(input)).zero_() for _ in range(2))
        return output, mean, var
    return output, *moments.statistics(input)


def conv2d_backward_weight_prologue(
    grad: torch.Tensor,
    input: torch.Tensor,
    weight_size: Ints,
    in_mean: torch.Tensor,
    in_var: torch.Tensor,
    in_weight: Optional,
    in_bias: Optional,
    in_eps: float,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    allow_tf32: bool,
    allow_winograd: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of the weight and of the bias, contiguous; the same bits every time."""
    prologue = prologue_of(input, in_mean, in_var, in_weight, in_bias, in_eps)
    return weight_gradient(grad, input, weight_size, (stride, padding, dilation, groups), allow_tf32, prologue)


def conv2d_residual_relu(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: Optional,
    residual: Optional,
    relu: bool,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    allow_tf32: bool,
    allow_winograd: bool,
) -> torch.Tensor:
    """relu(conv2d(input, weight, bias) + residual), without the relu if that is false."""
    return convolve(input, weight, (stride, padding, dilation, groups), Epilogue(bias, residual, relu), allow_tf32)[0]


define(
    "conv2d_statistics(Tensor input, Tensor weight, Tensor? bias, Tensor? in_mean, Tensor? in_var, Tensor? in_weight, "
    f"Tensor? in_bias, float in_eps, {GEOMETRY}) -> (Tensor output, Tensor mean, Tensor var)",
    conv2d_statistics,
)
define(
    "conv2d_backward_weight_prologue(Tensor grad, Tensor input, SymInt[] weight_size, Tensor in_mean, Tensor in_var, "
    f"Tensor? in_weight, Tensor? in_bias, float in_eps, {GEOMETRY}) -> (Tensor grad_weight, Tensor grad_bias)",
    conv2d_backward_weight_prologue,
)
define(
    "conv2d_residual_relu(Tensor input, Tensor weight, Tensor? bias, Tensor? residual, bool relu, "
    f"{GEOMETRY}) -> Tensor",
    conv2d_residual_relu,
)
