"""What autograd and torch.compile must know of batch_norm_relu: the norm, residual and ReLU of the fused layer.

The gradient takes mean and var for functions of the input, which they are: the statistics of the batch. Gradients of
gradients fall to the plain formula, which torch differentiates to any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from cnnext.ops.arguments import new_empty
from cnnext.ops.batch_norm import statistics_dtype
from cnnext.registration import OpSpec, declare

Parameters = tuple[torch.Tensor | None, torch.Tensor | None]


def check_channels(input: torch.Tensor, **parameters: torch.Tensor | None) -> None:
    """Raise RuntimeError unless ``input`` has four dimensions and each parameter a value for each channel."""
    if input.dim() != 4:
        raise RuntimeError(f"expected `input` with 4 dimensions, but got shape {list(input.shape)}")
    for name, tensor in parameters.items():
        if tensor is not None and tensor.shape != (input.shape[1],):
            raise RuntimeError(f"expected `{name}` of shape [{input.shape[1]}], but got shape {list(tensor.shape)}")


def to_parameters(sums: Sequence[torch.Tensor], dtypes: Sequence[Any], wanted: Sequence[bool]) -> Parameters:
    """The gradients of weight and bias, in their dtypes."""
    weight, bias = (sums[i].to(dtypes[i]) if wanted[i] else None for i in range(2))
    return weight, bias


def _check(
    input: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    **others: torch.Tensor | None,
) -> None:
    check_channels(input, mean=mean, var=var, weight=weight, bias=bias)
    for name, tensor in others.items():
        if tensor is not None and tensor.shape != input.shape:
            raise RuntimeError(f"expected `{name}` of shape {list(input.shape)}, but got shape {list(tensor.shape)}")


def _fake(input: torch.Tensor, *arguments: Any) -> torch.Tensor:
    *norm, residual, _, _ = arguments
    _check(input, *norm, residual=residual)
    return new_empty(input, input.shape)


def _channel_values(input: torch.Tensor) -> torch.Tensor:
    return input.new_empty((input.shape[1],), dtype=statistics_dtype(input))


def _grads(input: torch.Tensor, output: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    grad_residual = input.new_empty((0,)) if output is None else new_empty(input, input.shape)
    return new_empty(input, input.shape), grad_residual


def _backward_fake(grad: torch.Tensor, input: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, ...]:
    *norm, output, _, _ = arguments
    _check(input, *norm, grad=grad, output=output)
    return *_grads(input, output), _channel_values(input), _channel_values(input)


def _sums_fake(grad: torch.Tensor, input: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, ...]:
    return _backward_fake(grad, input, *arguments)[2:]


def _apply_fake(grad: torch.Tensor, input: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, ...]:
    *norm, output, sum, sum_normal, _, _, _ = arguments
    _check(input, *norm, grad=grad, output=output)
    check_channels(input, sum=sum, sum_normal=sum_normal)
    return _grads(input, output)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    input, mean, var, weight, bias, residual, ctx.relu, ctx.eps = inputs
    ctx.has_residual = residual is not None
    ctx.save_for_backward(input, mean, var, weight, bias, output if ctx.has_residual and ctx.relu else None)
    ctx.dtypes = [None if parameter is None else parameter.dtype for parameter in (weight, bias)]


def _backward(ops: Any, ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    results = ops.batch_norm_relu_backward(grad, *ctx.saved_tensors, ctx.relu, ctx.eps)
    grad_input, grad_residual, grad_weight, grad_bias = results
    wants_input, _, _, *wants, wants_residual = ctx.needs_input_grad[:6]
    return (
        grad_input if wants_input else None,
        None,
        None,
        *to_parameters((grad_weight, grad_bias), ctx.dtypes, wants),
        (grad_residual if ctx.relu else grad) if wants_residual else None,
        None,
        None,
    )


# ---- gradients of gradients ----


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.relu, ctx.eps = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _save_apply(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.count, ctx.relu, ctx.eps = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _mask(ops: Any, ctx: Any, input: torch.Tensor, norm: Sequence[Any], output: torch.Tensor | None) -> Any:
    """Where the ReLU lets gradients through; None: everywhere."""
    if not ctx.relu:
        return None
    with torch.no_grad():
        values = ops.batch_norm_relu(input, *norm, None, False, ctx.eps) if output is None else output
        return ~(values <= 0)


def _masked(grad: torch.Tensor, mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    grad = grad.to(dtype)
    return grad if mask is None else torch.where(mask, grad, 0)


def _normal(input: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The normalised input and the inverse deviation, as functions of the input."""
    x = input.to(statistics_dtype(input))
    center = x - x.mean((0, 2, 3), keepdim=True)
    inverse = (center.square().mean((0, 2, 3), keepdim=True) + eps).rsqrt()
    return center * inverse, inverse


def _plain_sums(g: torch.Tensor, normal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return g.sum((0, 2, 3)), (g * normal).sum((0, 2, 3))


def _plain_apply(
    g: torch.Tensor, normal: torch.Tensor, scale: torch.Tensor, sums: Sequence[torch.Tensor], count: Any
) -> torch.Tensor:
    mean, mean_normal = (values.view(1, -1, 1, 1) / count for values in sums)
    return scale * (g - mean - normal * mean_normal)


def _pull_back(
    plain: Callable[..., tuple[torch.Tensor, ...]], tensors: Sequence[Any], cotangents: Sequence[Any]
) -> list[torch.Tensor | None]:
    """Gradients of Σ ⟨cotangent, output⟩ of ``plain`` with respect to each of ``tensors``; None for a missing one."""
    there = [i for i, tensor in enumerate(tensors) if tensor is not None]

    def of_those(*present: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = dict(zip(there, present, strict=True))
        return plain(*(values.get(i) for i in range(len(tensors))))

    outputs, pull, *_ = torch.func.vjp(of_those, *(tensors[i] for i in there))
    known = [
        torch.zeros_like(output) if cotangent is None else cotangent.to(output.dtype)
        for output, cotangent in zip(outputs, cotangents, strict=True)
    ]
    gradients = dict(zip(there, pull(tuple(known)), strict=True))
    return [gradients.get(i) for i in range(len(tensors))]


def _scale(weight: torch.Tensor | None, inverse: torch.Tensor) -> torch.Tensor:
    return inverse if weight is None else inverse * weight.to(inverse.dtype).view(1, -1, 1, 1)


def _backward_backward(ops: Any, ctx: Any, *cotangents: torch.Tensor | None) -> tuple[Any, ...]:
    grad, input, *norm, output = ctx.saved_tensors
    mask = _mask(ops, ctx, input, norm, output)

    def plain(grad: torch.Tensor, input: torch.Tensor, weight: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        normal, inverse = _normal(input, ctx.eps)
        g = _masked(grad, mask, normal.dtype)
        sums = _plain_sums(g, normal)
        count = input.numel() // input.shape[1]
        grad_input = _plain_apply(g, normal, _scale(weight, inverse), sums, count)
        return grad_input, g if output is not None else g.new_empty((0,)), sums[1], sums[0]

    to_grad, to_input, to_weight = _pull_back(plain, (grad, input, norm[2]), cotangents)
    return to_grad, to_input, None, None, to_weight, None, None, None, None


def _sums_backward(ops: Any, ctx: Any, *cotangents: torch.Tensor | None) -> tuple[Any, ...]:
    grad, input, *norm, output = ctx.saved_tensors
    mask = _mask(ops, ctx, input, norm, output)

    def plain(grad: torch.Tensor, input: torch.Tensor) -> tuple[torch.Tensor, ...]:
        normal, _ = _normal(input, ctx.eps)
        return _plain_sums(_masked(grad, mask, normal.dtype), normal)

    return *_pull_back(plain, (grad, input), cotangents), *(None,) * 7


def _apply_backward(ops: Any, ctx: Any, *cotangents: torch.Tensor | None) -> tuple[Any, ...]:
    grad, input, *norm, output, sum, sum_normal = ctx.saved_tensors
    mask = _mask(ops, ctx, input, norm, output)

    def plain(
        grad: torch.Tensor, input: torch.Tensor, weight: torch.Tensor | None, *sums: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        normal, inverse = _normal(input, ctx.eps)
        g = _masked(grad, mask, normal.dtype)
        grad_input = _plain_apply(g, normal, _scale(weight, inverse), sums, ctx.count)
        return grad_input, g if output is not None else g.new_empty((0,))

    gradients = _pull_back(plain, (grad, input, norm[2], sum, sum_normal), cotangents)
    to_grad, to_input, to_weight, *to_sums = gradients
    return to_grad, to_input, None, None, to_weight, None, None, *to_sums, None, None, None


declare(
    OpSpec(name="batch_norm_relu", fake=_fake, save=_save, backward=_backward),
    OpSpec(name="batch_norm_relu_backward", fake=_backward_fake, save=_save_backward, backward=_backward_backward),
    OpSpec(name="batch_norm_relu_backward_sums", fake=_sums_fake, save=_save_backward, backward=_sums_backward),
    OpSpec(name="batch_norm_relu_backward_apply", fake=_apply_fake, save=_save_apply, backward=_apply_backward),
)
