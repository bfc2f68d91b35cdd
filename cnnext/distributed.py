"""Batch norm over the batches of several processes, alone or with the convolution before it and what follows.

Each process brings count, mean and variance of its own part; all of them are gathered and merged (Chan, Golub and
LeVeque, 1979), so that parts may differ in size and may be empty. Backward, the two sums of the norm's gradient are
added up over the processes; the gradients of its weight and bias remain those of the part, for
``DistributedDataParallel`` to average, as with ``torch.nn.SyncBatchNorm``. All of that is in float64, so that every
process has the same statistics, to the bit.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from cnnext.backends import TORCH, choose
from cnnext.ops.arguments import autocast
from cnnext.ops.batch_norm import statistics_dtype
from cnnext.ops.conv2d import conv2d
from cnnext.ops.conv2d_shape import pad_odd
from cnnext.ops.conv_bn_relu_norm import to_parameters
from cnnext.ops.conv_bn_relu_stage import ConvBN, Geometry

FUSED = (
    "conv2d_statistics",
    "batch_norm_relu",
    "batch_norm_relu_backward_sums",
    "batch_norm_relu_backward_apply",
)
"""The ops that a backend needs; for one that lacks them, the plain formula stands in."""


def require_same_channels(channels: int, process_group: Any) -> None:
    """Compare the number of channels over the processes, for collectives of unequal sizes would hang.

    Raises:
        RuntimeError: they differ, or this process is not in the group.
    """
    _world_size(process_group)
    device = torch.device("cuda" if dist.get_backend(process_group) == "nccl" else "cpu")
    found = [int(values) for values in _gather(torch.tensor([channels], device=device), process_group)]
    if len(set(found)) > 1:
        raise RuntimeError(f"expected one number of channels in every process of the group, but got {found} by rank")


def synchronises(stage: ConvBN) -> bool:
    """Whether the stage's statistics are those of several processes.

    Raises:
        RuntimeError: this process is not in the stage's group.
    """
    return stage.trains and stage.process_group is not None and _world_size(stage.process_group) > 1


def run_stage(
    input: torch.Tensor, stage: ConvBN, geometry: Geometry, residual: torch.Tensor | None, relu: bool
) -> torch.Tensor:
    """``relu(batch_norm(conv2d(input)) + residual)`` with the statistics of every process's batch.

    Args and result are those of :func:`cnnext.functional.conv_bn_relu`, already checked; N may be another in each
    process, and zero. All processes of the group must call.

    Raises:
        ValueError: there is a single value per channel in all processes together.
    """
    ops = _fused_ops(input)
    if ops is None:
        convolution = (stage.stride, stage.padding, stage.dilation, stage.groups)
        output = conv2d(input, stage.weight, stage.bias, *convolution)
        mean, var = _moments(output)
    else:
        input, weight, bias = autocast(pad_odd(input, geometry.extra), stage.weight, stage.bias)
        prologue = (None, None, None, None, 0.0)
        output, mean, var = ops.conv2d_statistics(input, weight, bias, *prologue, *geometry.arguments(input))
    return _normalise(ops, output, mean, var, stage, residual, relu)


def batch_norm(input: torch.Tensor, norm: ConvBN) -> torch.Tensor:
    """Normalise (N, C, …) with the statistics of every process's batch; ``norm`` is a stage whose convolution is done.

    Raises:
        ValueError: as :func:`run_stage`.
    """
    image = input.reshape(*input.shape[:2], -1, 1) if input.dim() != 4 else input
    mean, var = _moments(image)
    output = _normalise(_fused_ops(image), image, mean, var, norm, None, False)
    return output.reshape(input.shape)


def _fused_ops(input: torch.Tensor) -> Any:
    backend = choose("batch_norm", input)
    lacks = backend is TORCH or any(backend.can_run(op, input.device, input.dtype) is not None for op in FUSED)
    return None if lacks else backend.ops


@torch.no_grad()
def _moments(input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    wide = input.to(statistics_dtype(input))
    var, mean = torch.var_mean(wide, (0, 2, 3), correction=0) if input.numel() else (wide.sum((0, 2, 3)),) * 2
    return mean, var


def _normalise(
    ops: Any,
    output: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    norm: ConvBN,
    residual: torch.Tensor | None,
    relu: bool,
) -> torch.Tensor:
    count, mean, var = _merge(output, mean, var, norm.process_group)
    if count == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {output.shape}")
    if norm.running_mean is not None and count > 0:
        with torch.no_grad():
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
            assert norm.running_var is not None
            unbiased = var * (count / (count - 1))
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)
    mean, var = (values.to(statistics_dtype(output)) for values in (mean, var))
    arguments = (output, mean, var, norm.bn_weight, norm.bn_bias, residual)
    result: torch.Tensor = _Norm.apply(ops, norm.process_group, count, relu, norm.eps, *arguments)
    return result


def _merge(
    output: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, group: Any
) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Count, mean and biased variance of all processes' values, in float64."""
    channels = output.shape[1]
    count = output.numel() // channels
    own = torch.stack([mean, var]).double() if count else mean.new_zeros((2, channels), dtype=torch.float64)
    own = torch.cat([own.new_full((1,), count), own.flatten()])
    gathered = torch.stack(_gather(own, group))
    counts, values = gathered[:, 0, None], gathered[:, 1:].view(-1, 2, channels)
    total = int(counts.sum())
    share = counts / max(total, 1)
    means, variances = values.unbind(1)
    mean = (share * means).sum(0)
    return total, mean, (share * (variances + (means - mean).square())).sum(0)


def _world_size(group: Any) -> int:
    size = dist.get_world_size(group)
    if size < 0:
        raise RuntimeError(f"expected a process group with this process in it, but rank {dist.get_rank()} is not")
    return size


def _gather(own: torch.Tensor, group: Any) -> list[torch.Tensor]:
    gathered = [torch.empty_like(own) for _ in range(_world_size(group))]
    dist.all_gather(gathered, own, group)
    return gathered


class _Norm(torch.autograd.Function):
    """relu(normalised output + residual), whose gradient knows that mean and var came from all processes."""

    @staticmethod
    def forward(
        ctx: Any, ops: Any, group: Any, count: int, relu: bool, eps: float, *tensors: torch.Tensor | None
    ) -> torch.Tensor:
        input, mean, var, weight, bias, residual = tensors
        ctx.settings = (ops, group, count, relu, eps)
        result: torch.Tensor
        if ops is None:
            result = _plain(input, mean, var, weight, bias, residual, relu, eps)
        else:
            result = ops.batch_norm_relu(input, mean, var, weight, bias, residual, relu, eps)
        ctx.dtypes = [None if values is None else values.dtype for values in (weight, bias)]
        ctx.save_for_backward(input, mean, var, weight, bias, result if relu and residual is not None else None)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        ops, group, count, relu, eps = ctx.settings
        tensors = ctx.saved_tensors
        backward: Any = _PlainBackward() if ops is None else ops
        sums = backward.batch_norm_relu_backward_sums(grad, *tensors, relu, eps)
        wants_input, _, _, *wants, wants_residual = ctx.needs_input_grad[5:]
        to_input = to_residual = None
        if wants_input or wants_residual:
            total = torch.stack(sums).double()
            dist.all_reduce(total, group=group)
            totals = total.to(sums[0].dtype)
            to_input, to_residual = backward.batch_norm_relu_backward_apply(
                grad, *tensors, totals[0], totals[1], count, relu, eps
            )
        return (
            *(None,) * 5,
            to_input if wants_input else None,
            None,
            None,
            *to_parameters(sums[::-1], ctx.dtypes, wants),
            (to_residual if relu else grad) if wants_residual else None,
        )


def _channel(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return values.to(dtype).view(1, -1, 1, 1)


def _plain(
    input: Any, mean: Any, var: Any, weight: Any, bias: Any, residual: Any, relu: bool, eps: float
) -> torch.Tensor:
    dtype = statistics_dtype(input)
    output = (input.to(dtype) - _channel(mean, dtype)) * (_channel(var, dtype) + eps).rsqrt()
    if weight is not None:
        output = output * _channel(weight, dtype)
    if bias is not None:
        output = output + _channel(bias, dtype)
    if residual is not None:
        output = output + residual
    result: torch.Tensor = (torch.relu(output) if relu else output).to(input.dtype)
    return result


class _PlainBackward:
    """The two ops of the gradient as formulas of torch's, with their arguments and results."""

    def batch_norm_relu_backward_sums(self, grad: Any, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        masked, normal, _ = self._parts(grad, *arguments)
        return masked.sum((0, 2, 3)), (masked * normal).sum((0, 2, 3))

    def batch_norm_relu_backward_apply(
        self,
        grad: Any,
        input: Any,
        mean: Any,
        var: Any,
        weight: Any,
        bias: Any,
        output: Any,
        sum: Any,
        sum_normal: Any,
        count: int,
        relu: bool,
        eps: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        masked, normal, scale = self._parts(grad, input, mean, var, weight, bias, output, relu, eps)
        average, average_normal = (_channel(values, masked.dtype) / max(count, 1) for values in (sum, sum_normal))
        to_input = scale * (masked - average - normal * average_normal)
        return to_input.to(input.dtype), masked.to(input.dtype)

    def _parts(
        self, grad: Any, input: Any, mean: Any, var: Any, weight: Any, bias: Any, output: Any, relu: bool, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The masked gradient, the normalised input, and weight over deviation."""
        dtype = statistics_dtype(input)
        scale = (_channel(var, dtype) + eps).rsqrt()
        normal = (input.to(dtype) - _channel(mean, dtype)) * scale
        grad = grad.to(dtype)
        if relu:
            shown = _plain(input, mean, var, weight, bias, None, False, eps) if output is None else output
            grad = torch.where(shown <= 0, 0, grad)
        return grad, normal, scale if weight is None else scale * _channel(weight, dtype)
