"""How a chain of convolutions with batch norm and ReLU runs: fused where the backend can, else one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from cnnext import distributed
from cnnext.backends import AUTO, TORCH, Backend, choose, current
from cnnext.ops.arguments import autocast, require_optional_tensor, require_tensor
from cnnext.ops.batch_norm import batch_norm
from cnnext.ops.conv2d import conv2d
from cnnext.ops.conv2d_shape import pad_odd
from cnnext.ops.conv_bn_relu_stage import ConvBN, Geometry, check_residual, check_stage, geometry_of, output_shape

TRAINING = (
    "conv2d_statistics",
    "conv2d_backward_weight_prologue",
    "batch_norm_relu",
    "batch_norm_relu_backward",
)
EVALUATION = ("conv2d_residual_relu",)
"""The ops that a backend needs; for one that lacks them, convolution, norm and ReLU run one by one."""


class _Link(NamedTuple):
    """What one stage hands to the next: ``input``, still to be normalised and rectified where there is a mean."""

    input: torch.Tensor
    mean: torch.Tensor | None = None
    var: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    eps: float = 0.0

    def written(self, ops: Any, residual: torch.Tensor | None = None, relu: bool = True) -> torch.Tensor:
        """The values themselves, in memory."""
        if self.mean is None:
            return self.input
        *norm, eps = self[1:]
        result: torch.Tensor = ops.batch_norm_relu(self.input, *norm, residual, relu, eps)
        return result


def run(input: torch.Tensor, stages: Sequence[ConvBN], residual: torch.Tensor | None, relu: bool) -> torch.Tensor:
    """Check all arguments, and run the stages."""
    require_tensor(input, "input")
    require_optional_tensor(residual, "residual")
    if not isinstance(relu, bool):
        raise TypeError(f"argument `relu` must be a bool, but got {relu!r}")
    if not stages:
        raise RuntimeError("expected `stages` with at least one stage, but got none")
    geometries = [geometry_of(stage) for stage in stages]
    input, residual = autocast(input, residual)
    shape: Any = input.shape
    for stage, geometry in zip(stages, geometries, strict=True):
        shape = output_shape(shape, stage, geometry)
        check_stage(input, stage, shape)
    check_residual(residual, input, shape)
    backend = _choose(input, stages, geometries, residual, relu)
    link = _Link(input)
    for stage, geometry in zip(stages[:-1], geometries[:-1], strict=True):
        link = _run_stage(backend, link, stage, geometry)
    return _run_last(backend, link, stages[-1], geometries[-1], residual, relu)


def _choose(
    input: torch.Tensor,
    stages: Sequence[ConvBN],
    geometries: Sequence[Geometry],
    residual: torch.Tensor | None,
    relu: bool,
) -> Backend:
    """The backend; ``"auto"`` measures the chain as a whole, unless other processes would have to take part."""
    if current() != AUTO or any(distributed.synchronises(stage) for stage in stages):
        return choose("conv2d", input)
    count = len(ConvBN._fields[: ConvBN._fields.index("training")])  # of a stage's tensors

    def again(input: torch.Tensor, *values: Any) -> torch.Tensor:
        parts = [values[i * count : (i + 1) * count] for i in range(len(stages))]
        copies = [ConvBN(*part, *stage[count:]) for part, stage in zip(parts, stages, strict=True)]
        return run(input, copies, values[len(stages) * count], relu)

    tensors: tuple[Any, ...] = tuple(tensor for stage in stages for tensor in stage[:count])
    kinds = [
        (tuple(stage.weight.shape), stage.norm, stage.training, *geometry)
        for stage, geometry in zip(stages, geometries, strict=True)
    ]
    return choose("conv2d", input, again, (*tensors, residual), ("chain", relu, residual is None, *kinds))


def _run_stage(backend: Backend, link: _Link, stage: ConvBN, geometry: Geometry) -> _Link:
    """A stage that ends in a ReLU, which may be left to the next one."""
    if stage.trains and not distributed.synchronises(stage) and _has(backend, TRAINING, link.input):
        return _train(backend, link, stage, geometry)
    return _Link(_run_last(backend, link, stage, geometry, None, True))


def _run_last(
    backend: Backend, link: _Link, stage: ConvBN, geometry: Geometry, residual: torch.Tensor | None, relu: bool
) -> torch.Tensor:
    """A stage whose result is written."""
    if distributed.synchronises(stage):
        return distributed.run_stage(link.written(backend.ops), stage, geometry, residual, relu)
    if stage.trains and _has(backend, TRAINING, link.input):
        return _train(backend, link, stage, geometry).written(backend.ops, residual, relu)
    input = link.written(backend.ops)
    if stage.trains or not _has(backend, EVALUATION, input) or not _folds(input, stage, geometry):
        return _one_by_one(input, stage, residual, relu)
    input, weight, bias = autocast(pad_odd(input, geometry.extra), *_folded(stage))
    result: torch.Tensor = backend.ops.conv2d_residual_relu(
        input, weight, bias, residual, relu, *geometry.arguments(input)
    )
    return result


def _has(backend: Backend, needed: tuple[str, ...], like: torch.Tensor) -> bool:
    return backend is not TORCH and all(backend.can_run(op, like.device, like.dtype) is None for op in needed)


def _folds(input: torch.Tensor, stage: ConvBN, geometry: Geometry) -> bool:
    """Whether the norm goes into the weight, even if parameters then get their gradients through that.

    Those must not be rounded to 16 bits; and passes over a weight that is larger than the output cost more than those
    over the output that they save.
    """
    parameters = (stage.weight, stage.bias, stage.bn_weight, stage.bn_bias)
    if not stage.norm or not torch.is_grad_enabled() or not any(t is not None and t.requires_grad for t in parameters):
        return True
    if input.dtype not in (torch.float32, torch.float64):
        return False
    return bool(stage.weight.numel() <= math.prod(output_shape(input.shape, stage, geometry)))


def _train(backend: Backend, link: _Link, stage: ConvBN, geometry: Geometry) -> _Link:
    """The convolution and its statistics; the norm is left to the next stage."""
    if geometry.extra != (0, 0):  # zeros among normalised values, of which the prologue knows nothing
        link = _Link(pad_odd(link.written(backend.ops), geometry.extra))
    input, weight, bias = autocast(link.input, stage.weight, stage.bias)
    output, mean, var = backend.ops.conv2d_statistics(input, weight, bias, *link[1:], *geometry.arguments(input))
    if stage.running_mean is not None and output.numel() > 0:
        count = output.numel() // output.shape[1]
        backend.ops.batch_norm_update_(stage.running_mean, stage.running_var, mean, var, count, stage.momentum)
    return _Link(output, mean, var, stage.bn_weight, stage.bn_bias, stage.eps)


def _folded(stage: ConvBN) -> tuple[torch.Tensor, torch.Tensor | None]:
    if not stage.norm:
        return stage.weight, stage.bias
    assert stage.running_mean is not None and stage.running_var is not None
    norm = (stage.bn_weight, stage.bn_bias, stage.running_mean, stage.running_var)
    return fold_batch_norm(stage.weight, stage.bias, *norm, stage.eps)


def fold_batch_norm(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    bn_weight: torch.Tensor | None,
    bn_bias: torch.Tensor | None,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    eps: float = 1e-5,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight and the bias of the convolution that gives what batch norm makes of this one in evaluation.

    ``weight · scale`` and ``(bias − running_mean) · scale + bn_bias``, where
    ``scale = bn_weight / √(running_var + eps)``.

    Args:
        weight: shape (K, C / groups, R, S).
        bias, bn_weight, bn_bias: shape (K,), or None.
        running_mean, running_var: shape (K,).
        eps: added to the variance.

    Returns:
        Weight and bias, of ``weight``'s dtype; scale and bias are calculated in float64. Differentiable.
    """
    scale = (running_var.double() + eps).rsqrt()
    if bn_weight is not None:
        scale = scale * bn_weight
    shift = -running_mean.double() if bias is None else bias - running_mean.double()
    shift = shift * scale
    if bn_bias is not None:
        shift = shift + bn_bias
    wide = weight if weight.dtype == torch.float64 else weight.float()
    return (wide * scale.to(wide.dtype).view(-1, 1, 1, 1)).to(weight.dtype), shift.to(weight.dtype)


def _one_by_one(input: torch.Tensor, stage: ConvBN, residual: torch.Tensor | None, relu: bool) -> torch.Tensor:
    """The unfused formula, on the backend that is in force."""
    output = conv2d(input, stage.weight, stage.bias, stage.stride, stage.padding, stage.dilation, stage.groups)
    if stage.norm:
        output = batch_norm(
            output,
            stage.running_mean,
            stage.running_var,
            stage.bn_weight,
            stage.bn_bias,
            stage.training,
            stage.momentum,
            stage.eps,
        )
    if residual is not None:
        output = output + residual
    if not relu:
        return output
    # Without gradients nobody else has seen the output: the ReLU needs no memory of its own.
    return torch.relu(output) if torch.is_grad_enabled() else torch.relu_(output)
