"""batch_norm_relu and its backward passes in Triton: checks, outputs, registration.

The kernels are those of batch_norm, with the residual, the ReLU and its mask in the same passes.
"""

from __future__ import annotations

import torch

from cnnext.ops.arguments import is_channels_last
from cnnext.triton import batch_norm_passes as passes
from cnnext.triton.batch_norm_checks import check_eps, check_parameters
from cnnext.triton.batch_norm_passes import Gate
from cnnext.triton.batch_norm_shape import BatchNormShape
from cnnext.triton.define import define
from cnnext.triton.tensors import accumulator_dtype, check_dtype, check_rank, check_same, check_shape, empty

Optional = torch.Tensor | None
Pair = tuple[torch.Tensor, torch.Tensor]


def _check(
    input: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    weight: Optional,
    bias: Optional,
    eps: float,
    **others: Optional,
) -> None:
    """Raise RuntimeError unless there is a value for each channel, and ``others`` go value by value with ``input``."""
    check_rank(input, "input", 4)
    check_dtype(input, "input")
    check_eps(eps, True)
    check_parameters(input, mean=mean, var=var)
    check_parameters(input, weight=weight, bias=bias)
    for name, tensor in others.items():
        if tensor is not None:
            check_shape(tensor, name, input.shape)
            check_same(tensor, name, input, "input")


def batch_norm_relu(
    input: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    weight: Optional,
    bias: Optional,
    residual: Optional,
    relu: bool,
    eps: float,
) -> torch.Tensor:
    """relu((input − mean) / √(var + eps) · weight + bias + residual), without the relu if that is false."""
    _check(input, mean, var, weight, bias, eps, residual=residual)
    output = empty(input, input.shape, channels_last=is_channels_last(input))
    if input.numel() == 0:
        return output
    shape = BatchNormShape.of(input)
    x = shape.dense(input)
    values = passes.coefficients(x, weight, bias, mean.contiguous(), var.contiguous(), eps)
    passes.apply(x, shape, values, output, None if residual is None else shape.dense(residual), relu)
    return output


class _Gradient:
    """The arguments that the three backward ops have in common, checked and dense in the input's layout."""

    def __init__(
        self,
        grad: torch.Tensor,
        input: torch.Tensor,
        mean: torch.Tensor,
        var: torch.Tensor,
        weight: Optional,
        bias: Optional,
        output: Optional,
        relu: bool,
        eps: float,
    ):
        _check(input, mean, var, weight, bias, eps, grad=grad, output=output)
        self.empty, self.weight, self.eps = input.numel() == 0, weight, eps
        self.mean, self.var = mean.contiguous(), var.contiguous()
        self.last = is_channels_last(input)
        self.has_residual, self.relu = output is not None, relu
        if self.empty:
            self.x = input
            return
        self.shape = BatchNormShape.of(input)
        self.g, self.x = self.shape.dense(grad), self.shape.dense(input)
        self.gate = Gate()
        if relu and output is not None:
            self.gate = Gate(passes.BY_OUTPUT, output=self.shape.dense(output))
        elif relu:
            values = passes.coefficients(self.x, weight, bias, self.mean, self.var, eps)
            self.gate = Gate(passes.BY_INPUT, values=values)

    def sums(self) -> torch.Tensor:
        return passes.backward_sums(self.g, self.x, self.mean, self.shape, self.gate)

    def coefficients(self, partial: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return passes.backward_coefficients(
            self.x, self.weight, self.mean, self.var, partial, count, training=True, eps=self.eps
        )

    def outputs(self) -> Pair:
        """Unwritten gradients of the input and of the residual."""
        grad_input = empty(self.x, self.x.shape, channels_last=self.last)
        if not self.has_residual:
            return grad_input, empty(self.x, (0,))
        return grad_input, empty(self.x, self.x.shape, channels_last=self.last)

    def channels(self) -> Pair:
        """Unwritten values of each channel."""
        first, second = (empty(self.x, self.mean.shape, accumulator_dtype(self.x)) for _ in range(2))
        return first, second

    def apply(self, values: torch.Tensor) -> Pair:
        grad_input, grad_residual = self.outputs()
        masked = grad_residual if self.has_residual else None
        passes.backward_apply(
            self.g, self.x, self.shape, values, grad_input, training=True, gate=self.gate, masked=masked
        )
        return grad_input, grad_residual


def batch_norm_relu_backward(
    grad: torch.Tensor,
    input: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    weight: Optional,
    bias: Optional,
    output: Optional,
    relu: bool,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of input, residual (empty without ``output``), weight and bias; the same bits every time."""
    gradient = _Gradient(grad, input, mean, var, weight, bias, output, relu, eps)
    if gradient.empty:
        grad_weight, grad_bias = gradient.channels()
        return *gradient.outputs(), grad_weight.zero_(), grad_bias.zero_()
    values, grad_weight, grad_bias = gradient.coefficients(gradient.sums(), gradient.shape.samples)
    return *gradient.apply(values), grad_weight, grad_bias


def batch_norm_relu_backward_sums(
    grad: torch.Tensor,
    input: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    weight: Optional,
    bias: Optional,
    output: Optional,
    relu: bool,
    eps: float,
) -> Pair:
    """The gradients of bias and weight, which are the sums that the input's is made of."""
    gradient = _Gradient(grad, input, mean, var, weight, bias, output, relu, eps)
    if gradient.empty:
        sum, sum_normal = gradient.channels()
        return sum.zero_(), sum_normal.zero_()
    _, grad_weight, grad_bias = gradient.coefficients(gradient.sums(), gradient.shape.samples)
    return grad_bias, grad_weight


def batch_norm_relu_backward_apply(
    grad: torch.Tensor,
    input: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    weight: Optional,
    bias: Optional,
    output: Optional,
    sum: torch.Tensor,
    sum_normal: torch.Tensor,
    count: int,
    relu: bool,
    eps: float,
) -> Pair:
    """The gradients of input and residual, from sums over ``count`` values of each channel."""
    gradient = _Gradient(grad, input, mean, var, weight, bias, output, relu, eps)
    check_parameters(input, sum=sum, sum_normal=sum_normal)
    if count < 1:
        raise RuntimeError(f"expected `count` of at least 1, but got {count}")
    if gradient.empty:
        return gradient.outputs()
    deviation = (gradient.var.double() + eps).sqrt()  # the kernel's second sum is of g·(x − mean)
    partial = torch.stack((sum.double(), sum_normal.double() * deviation))[None]
    values, _, _ = gradient.coefficients(partial, count)
    return gradient.apply(values)


NORM = "Tensor input, Tensor mean, Tensor var, Tensor? weight, Tensor? bias"
define(f"batch_norm_relu({NORM}, Tensor? residual, bool relu, float eps) -> Tensor", batch_norm_relu)
define(
    f"batch_norm_relu_backward(Tensor grad, {NORM}, Tensor? output, bool relu, float eps) -> "
    "(Tensor grad_input, Tensor grad_residual, Tensor grad_weight, Tensor grad_bias)",
    batch_norm_relu_backward,
)
define(
    f"batch_norm_relu_backward_sums(Tensor grad, {NORM}, Tensor? output, bool relu, float eps) -> "
    "(Tensor sum, Tensor sum_normal)",
    batch_norm_relu_backward_sums,
)
define(
    f"batch_norm_relu_backward_apply(Tensor grad, {NORM}, Tensor? output, Tensor sum, Tensor sum_normal, "
    "SymInt count, bool relu, float eps) -> (Tensor grad_input, Tensor grad_residual)",
    batch_norm_relu_backward_apply,
)
