"""Launches of the kernels of batch_norm, with what the fused layer adds to them: a residual, a ReLU, its mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cnnext.triton.batch_norm_backward_kernel import BACKWARD_APPLY, BACKWARD_COEFFICIENTS, BACKWARD_SUMS
from cnnext.triton.batch_norm_kernel import APPLY, COEFFICIENTS
from cnnext.triton.batch_norm_shape import BatchNormShape, bits, contiguous
from cnnext.triton.launch import launch
from cnnext.triton.tensors import accumulator_dtype, empty

OPEN, BY_OUTPUT, BY_INPUT = 0, 1, 2
"""What tells the mask of a ReLU: nothing, for there is none; the sign of its output; its input, computed anew."""


def coefficients(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    var: torch.Tensor | None,
    eps: float,
    shape: BatchNormShape | None = None,
    partial: torch.Tensor | None = None,
) -> torch.Tensor:
    """What each value needs, [center, scale, its rest, offset][C], in the type of the sums over ``x``.

    Args:
        x: shape (N, C, H, W).
        weight, bias: shape (C,), or None.
        mean, var: shape (C,), contiguous; they are written where ``partial`` is given.
        eps: added to the variance.
        shape, partial: the moments of the batch, of which mean and var are then made.
    """
    channels = x.shape[1]
    values = empty(x, (4, channels), accumulator_dtype(x))
    launch(
        COEFFICIENTS,
        x,
        lambda config: ((channels + config["BLOCK"] - 1) // config["BLOCK"],),
        {
            "partial_ptr": partial,
            "weight_ptr": contiguous(weight),
            "bias_ptr": contiguous(bias),
            "mean_ptr": mean,
            "var_ptr": var,
            "coefficients_ptr": values,
            "samples": 0 if shape is None else shape.samples,
            "samples_each": 0 if shape is None else shape.samples_each,
            "splits": 0 if shape is None else shape.splits,
            "channels": channels,
            "eps_bits": bits(eps),
        },
        {"TRAINING": partial is not None, "HAS_WEIGHT": weight is not None, "HAS_BIAS": bias is not None},
    )
    return values


def apply(
    x: torch.Tensor,
    shape: BatchNormShape,
    values: torch.Tensor,
    output: torch.Tensor,
    residual: torch.Tensor | None = None,
    relu: bool = False,
) -> None:
    """Write relu(norm(x) + residual) to ``output``; every tensor is dense in the layout of ``shape``."""
    launch(
        APPLY,
        x,
        shape.apply_grid,
        {
            "x_ptr": x,
            "coefficients_ptr": values,
            "residual_ptr": residual,
            "y_ptr": output,
            **shape.sizes(),
            **shape.strides(),
        },
        {"HAS_RESIDUAL": residual is not None, "RELU": relu, **shape.wide()},
        shape.hints,
    )


@dataclass(frozen=True)
class Gate:
    """Where a ReLU lets gradients through.

    Args:
        kind: OPEN, BY_OUTPUT or BY_INPUT.
        output: of the ReLU, for BY_OUTPUT; dense.
        values: the coefficients of the norm before it, for BY_INPUT.
    """

    kind: int = OPEN
    output: torch.Tensor | None = None
    values: torch.Tensor | None = None

    def arguments(self) -> dict[str, torch.Tensor | None]:
        """Tensors of the kernels."""
        return {"output_ptr": self.output, "norm_ptr": self.values}


def backward_sums(
    g: torch.Tensor, x: torch.Tensor, mean: torch.Tensor, shape: BatchNormShape, gate: Gate
) -> torch.Tensor:
    """Partial sums [splits][2][C] of what ``gate`` lets through of ``g``, and of that times x − mean, in float64."""
    partial = empty(x, (shape.splits, 2, shape.channels), torch.float64)
    launch(
        BACKWARD_SUMS,
        x,
        shape.reduce_grid,
        {
            "g_ptr": g,
            "x_ptr": x,
            "mean_ptr": mean,
            **gate.arguments(),
            "partial_ptr": partial,
            **shape.sizes(),
            "samples_each": shape.samples_each,
            **shape.strides(),
        },
        {"GATE": gate.kind, **shape.wide()},
        shape.hints,
    )
    return partial


def backward_coefficients(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    mean: torch.Tensor,
    var: torch.Tensor,
    partial: torch.Tensor,
    samples: int,
    training: bool,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What each gradient needs, [center, a, b, c][C], and the gradients of weight and bias.

    Args:
        x: shape (N, C, H, W).
        weight, mean, var: shape (C,); mean and var contiguous.
        partial: of :func:`backward_sums`, or sums of several processes.
        samples: how many values of a channel made the statistics.
        training: whether the statistics are of the batch.
        eps: added to the variance.
    """
    channels, wide = x.shape[1], accumulator_dtype(x)
    values = empty(x, (4, channels), wide)
    grad_weight, grad_bias = (empty(x, (channels,), wide) for _ in range(2))
    launch(
        BACKWARD_COEFFICIENTS,
        x,
        lambda config: ((channels + config["BLOCK"] - 1) // config["BLOCK"],),
        {
            "partial_ptr": partial,
            "weight_ptr": contiguous(weight),
            "mean_ptr": mean,
            "var_ptr": var,
            "grad_weight_ptr": grad_weight,
            "grad_bias_ptr": grad_bias,
            "coefficients_ptr": values,
            "samples": samples,
            "splits": partial.shape[0],
            "channels": channels,
            "eps_bits": bits(eps),
        },
        {"TRAINING": training, "HAS_WEIGHT": weight is not None},
    )
    return values, grad_weight, grad_bias


def backward_apply(
    g: torch.Tensor,
    x: torch.Tensor,
    shape: BatchNormShape,
    values: torch.Tensor,
    grad_input: torch.Tensor,
    training: bool,
    gate: Gate,
    masked: torch.Tensor | None = None,
) -> None:
    """Write the gradient of ``x`` to ``grad_input``, and what ``gate`` lets through of ``g`` to ``masked``."""
    launch(
        BACKWARD_APPLY,
        x,
        shape.apply_grid,
        {
            "g_ptr": g,
            "x_ptr": x,
            "coefficients_ptr": values,
            **gate.arguments(),
            "gx_ptr": grad_input,
            "masked_ptr": masked,
            **shape.sizes(),
            **shape.strides(),
        },
        {"TRAINING": training, "GATE": gate.kind, "HAS_MASKED": masked is not None, **shape.wide()},
        shape.hints,
    )
