"""The arguments of the batch_norm ops: csrc/torch/batch_norm_checks.h again, same texts."""

from __future__ import annotations

import torch

from cnnext.triton.tensors import (
    accumulator_dtype,
    check_dtype,
    check_rank,
    check_same,
    check_same_device,
    check_shape,
    name_of,
)


def check_parameters(input: torch.Tensor, **parameters: torch.Tensor | None) -> None:
    """One value per channel, all of ``input``'s dtype or all of the one it is calculated in."""
    wide = accumulator_dtype(input)
    first: tuple[torch.Tensor, str] | None = None
    for name, tensor in parameters.items():
        if tensor is None:
            continue
        check_shape(tensor, name, (input.shape[1],))
        check_same_device(tensor, name, input, "input")
        if tensor.dtype not in (input.dtype, wide):
            raise RuntimeError(
                f"expected `{name}` of dtype {name_of(input.dtype)} or {name_of(wide)} for `input` of dtype "
                f"{name_of(input.dtype)}, but got {name_of(tensor.dtype)}"
            )
        first = first or (tensor, name)
        check_same(*first, tensor, name)


def check_eps(eps: float, training: bool) -> None:
    """Raise RuntimeError unless ``eps`` is positive, or at least not negative without training."""
    if eps < 0 or (training and eps == 0):
        raise RuntimeError(
            f"expected `eps` to be {'positive in training' if training else 'non-negative'}, but got {eps}"
        )


def check_forward(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    training: bool,
    eps: float,
) -> None:
    """Raise RuntimeError unless the arguments of batch_norm fit."""
    check_rank(input, "input", 4)
    check_dtype(input, "input")
    if not training and (running_mean is None or running_var is None):
        raise RuntimeError("expected `running_mean` and `running_var` without training")
    check_eps(eps, training)
    check_parameters(input, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)


def check_backward(
    grad: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor | None,
    mean: torch.Tensor,
    var: torch.Tensor,
    training: bool,
    eps: float,
) -> None:
    """Raise RuntimeError unless the arguments of batch_norm_backward fit."""
    check_rank(input, "input", 4)
    check_shape(grad, "grad", input.shape)
    check_same(grad, "grad", input, "input")
    check_dtype(input, "input")
    check_eps(eps, training)
    check_parameters(input, weight=weight)
    check_parameters(input, mean=mean, var=var)


def check_update(
    running_mean: torch.Tensor, running_var: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, count: int
) -> None:
    """Raise RuntimeError unless the arguments of batch_norm_update_ fit."""
    check_rank(running_mean, "running_mean", 1)
    for name, tensor in (("running_var", running_var), ("mean", mean), ("var", var)):
        check_shape(tensor, name, running_mean.shape)
        check_same_device(tensor, name, running_mean, "running_mean")
    check_same(running_mean, "running_mean", running_var, "running_var")
    for name, tensor in (("running_mean", running_mean), ("mean", mean), ("var", var)):
        check_dtype(tensor, name)
    if running_mean.shape[0] >= 2 and 0 in (running_mean.stride(0), running_var.stride(0)):
        raise RuntimeError("expected `running_mean` and `running_var` not to be expanded: they are written to")
    if count < 2:
        raise RuntimeError(f"expected `count` of at least 2 values for an unbiased variance, but got {count}")
