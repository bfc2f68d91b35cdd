"""batch_norm in Triton: checks, outputs, launches, registration."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import torch
import triton

from cnnext.ops.arguments import is_channels_last
from cnnext.triton.batch_norm_backward_kernel import BACKWARD_APPLY, BACKWARD_COEFFICIENTS, BACKWARD_SUMS
from cnnext.triton.batch_norm_checks import check_backward, check_forward, check_update
from cnnext.triton.batch_norm_kernel import APPLY, COEFFICIENTS, MOMENTS, UPDATE
from cnnext.triton.define import define
from cnnext.triton.launch import Hints, launch
from cnnext.triton.reduce import splits_for
from cnnext.triton.tensors import accumulator_dtype, empty

SAMPLES_A_STEP = 1024
WIDE_FROM = 2**31
Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _bits(value: float) -> int:
    """A float64 as an integer: kernels would take a float as a float32."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


@dataclass(frozen=True)
class BatchNormShape:
    """[image, channel, pixel]: a channels_last batch is one image, and its samples lie in order."""

    images: int
    channels: int
    pixels: int
    last: bool
    splits: int
    samples_each: int

    @staticmethod
    def of(x: torch.Tensor) -> BatchNormShape:
        """The shape of a batch (N, C, H, W), and into how many shares its samples are cut."""
        n, c, h, w = x.shape
        last = is_channels_last(x)
        steps = triton.cdiv(n * h * w, SAMPLES_A_STEP)
        splits = splits_for(x, triton.cdiv(c, 64) if last else c, steps, least_steps=2)
        each = triton.cdiv(steps, splits) * SAMPLES_A_STEP
        return BatchNormShape(1 if last else n, c, n * h * w if last else h * w, last, splits, each)

    @property
    def samples(self) -> int:
        """Values of a channel."""
        return self.images * self.pixels

    @property
    def hints(self) -> Hints:
        """What the choice of a config depends on."""
        return self.channels, int(self.last), self.samples

    def sizes(self) -> dict[str, int]:
        """Arguments of the kernels over samples."""
        return {"samples": self.samples, "pixels": self.pixels, "channels": self.channels}

    def wide(self) -> dict[str, bool]:
        """Whether offsets need 64 bits."""
        return {"WIDE": bool(self.samples * self.channels >= WIDE_FROM)}

    def strides(self, name: str, tensor: torch.Tensor) -> dict[str, int]:
        """Steps from image to image, from channel to channel, from pixel to pixel."""
        n, c, _, w = tensor.stride()
        return {f"{name}_n": 0 if self.last else n, f"{name}_c": c, f"{name}_i": w}

    def dense(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` with its samples in order, copied if need be."""
        layout = torch.channels_last if self.last else torch.contiguous_format
        return tensor if tensor.is_contiguous(memory_format=layout) else tensor.contiguous(memory_format=layout)

    def reduce_grid(self, config: dict[str, int]) -> tuple[int, int]:
        """Programs of a reduction."""
        return triton.cdiv(self.channels, config["BLOCK_C"]), self.splits

    def apply_grid(self, config: dict[str, int]) -> tuple[int, int]:
        """Programs that go through all values."""
        return triton.cdiv(self.samples, config["BLOCK_S"]), triton.cdiv(self.channels, config["BLOCK_C"])

    def channel_grid(self, config: dict[str, int]) -> tuple[int]:
        """Programs that go through the channels."""
        return (triton.cdiv(self.channels, config["BLOCK"]),)


def _contiguous(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.contiguous()


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
                **shape.strides("x", x),
            },
            shape.wide(),
            shape.hints,
        )
    coefficients = empty(x, (4, shape.channels), wide)
    launch(
        COEFFICIENTS,
        x,
        shape.channel_grid,
        {
            "partial_ptr": partial,
            "weight_ptr": _contiguous(weight),
            "bias_ptr": _contiguous(bias),
            "mean_ptr": mean if training else _contiguous(running_mean),
            "var_ptr": var if training else _contiguous(running_var),
            "coefficients_ptr": coefficients,
            "samples": shape.samples,
            "samples_each": shape.samples_each,
            "splits": shape.splits,
            "channels": shape.channels,
            "eps_bits": _bits(eps),
        },
        {"TRAINING": training, "HAS_WEIGHT": weight is not None, "HAS_BIAS": bias is not None},
    )
    tensors = {"x_ptr": x, "coefficients_ptr": coefficients, "y_ptr": output}
    steps = {**shape.strides("x", x), **shape.strides("y", output)}
    launch(APPLY, x, shape.apply_grid, {**tensors, **shape.sizes(), **steps}, shape.wide(), shape.hints)
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
    wide, c = accumulator_dtype(input), input.shape[1]
    grad_input = empty(input, input.shape, channels_last=is_channels_last(input))
    grad_weight, grad_bias = empty(input, (c,), wide), empty(input, (c,), wide)
    if input.numel() == 0:
        return grad_input, grad_weight.zero_(), grad_bias.zero_()
    shape = BatchNormShape.of(input)
    x, g = shape.dense(input), shape.dense(grad)
    mean, var = mean.contiguous(), var.contiguous()
    partial = empty(x, (shape.splits, 2, c), torch.float64)
    steps = {**shape.strides("g", g), **shape.strides("x", x)}
    launch(
        BACKWARD_SUMS,
        x,
        shape.reduce_grid,
        {
            "g_ptr": g,
            "x_ptr": x,
            "mean_ptr": mean,
            "partial_ptr": partial,
            **shape.sizes(),
            "samples_each": shape.samples_each,
            **steps,
        },
        shape.wide(),
        shape.hints,
    )
    coefficients = empty(x, (4, c), wide)
    launch(
        BACKWARD_COEFFICIENTS,
        x,
        shape.channel_grid,
        {
            "partial_ptr": partial,
            "weight_ptr": _contiguous(weight),
            "mean_ptr": mean,
            "var_ptr": var,
            "grad_weight_ptr": grad_weight,
            "grad_bias_ptr": grad_bias,
            "coefficients_ptr": coefficients,
            "samples": shape.samples,
            "splits": shape.splits,
            "channels": c,
            "eps_bits": _bits(eps),
        },
        {"TRAINING": training, "HAS_WEIGHT": weight is not None},
    )
    tensors = {"g_ptr": g, "x_ptr": x, "coefficients_ptr": coefficients, "gx_ptr": grad_input}
    arguments = {**tensors, **shape.sizes(), **steps, **shape.strides("gx", grad_input)}
    launch(BACKWARD_APPLY, x, shape.apply_grid, arguments, {"TRAINING": training, **shape.wide()}, shape.hints)
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
            "momentum_bits": _bits(momentum),
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
