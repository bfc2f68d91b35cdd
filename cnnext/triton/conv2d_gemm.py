"""Launches of the implicit-GEMM kernels of conv2d."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton

from cnnext.triton.conv2d_configs import BACKWARD_INPUT, BACKWARD_WEIGHT, FORWARD
from cnnext.triton.conv2d_epilogue import Epilogue, Moments
from cnnext.triton.conv2d_shape import Conv2dShape
from cnnext.triton.launch import launch
from cnnext.triton.reduce import splits_for, sum_partials
from cnnext.triton.tensors import accumulator_dtype, any_channels_last, empty, strides

FEW_CHANNELS = 16
"""Below it a block of channels would be mostly empty, and gemm_k is walked FLAT."""
PIXELS_A_STEP = 128


@dataclass(frozen=True)
class Rows:
    """The rows of the GEMM of a plain convolution: ``pixels`` in each of ``images``, a fixed step apart."""

    images: int
    pixels: int

    @staticmethod
    def of(shape: Conv2dShape, *tensors: torch.Tensor) -> Rows | None:
        """The rows, the whole batch in one if memory allows; None if the tensors are not made of such rows."""
        if not shape.is_plain:
            return None
        if not all(x.stride(2) == shape.w * x.stride(3) for x in tensors):
            return None
        if all(x.stride(0) == shape.h * shape.w * x.stride(3) for x in tensors):
            return Rows(1, shape.pixels)
        return Rows(shape.n, shape.h * shape.w) if shape.n < 2**16 else None


def precision(tensor: torch.Tensor, allow_tf32: bool) -> dict[str, str]:
    """How products of float32 are made; it means nothing for the other dtypes."""
    return {"PRECISION": "tf32" if allow_tf32 and tensor.dtype == torch.float32 else "ieee"}


def _channel_fastest(weight: torch.Tensor) -> torch.Tensor:
    """The weight with its input channels side by side, copied if need be: it is read a block of channels a tap."""
    return weight if weight.stride(1) == 1 else weight.contiguous(memory_format=torch.channels_last)


def forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    y: torch.Tensor,
    shape: Conv2dShape,
    epilogue: Epilogue,
    allow_tf32: bool,
    prologue: torch.Tensor | None = None,
) -> Moments | None:
    """Write the convolution to ``y``, of ``x`` as ``prologue`` (4, C) normalises it; return what ``epilogue`` sums."""
    rows = Rows.of(shape, x, y)
    images, pixels = (rows.images, rows.pixels) if rows else (1, shape.pixels)
    flat = shape.group_c < FEW_CHANNELS and shape.r * shape.s > 1
    w = weight if flat or shape.r * shape.s == 1 else _channel_fastest(weight)
    moments = Moments.room_for(FORWARD, images, pixels, shape.k, x) if epilogue.statistics else None
    narrow, depth = int(flat or x.stride(1) != 1), shape.group_c * shape.r * shape.s
    launch(
        FORWARD,
        x,
        lambda config: (
            triton.cdiv(pixels, config["BLOCK_M"]) * triton.cdiv(shape.group_k, config["BLOCK_N"]),
            shape.groups,
            images,
        ),
        {
            "x_ptr": x,
            "w_ptr": w,
            "in_ptr": prologue,
            "y_ptr": y,
            **epilogue.arguments(moments),
            "pixels": pixels,
            **shape.sizes(),
            "group_c": shape.group_c,
            "group_k": shape.group_k,
            **strides("x", "nchw", x),
            **strides("w", "kcrs", w),
            **strides("y", "nkpq", y),
        },
        {
            **shape.constants(),
            "PLAIN": rows is not None,
            "FLAT": flat,
            **precision(x, allow_tf32),
            "PROLOGUE": prologue is not None,
            **epilogue.constants(),
        },
        hints=(pixels, shape.group_k, depth, images * shape.groups, narrow, depth if flat else shape.group_c),
    )
    return moments


def backward_input(
    grad: torch.Tensor, weight: torch.Tensor, grad_x: torch.Tensor, shape: Conv2dShape, allow_tf32: bool
) -> None:
    """Write the gradient of the input to ``grad_x``."""
    if shape.is_plain and shape.groups == 1:
        forward(grad, weight.transpose(0, 1), grad_x, shape.swapped(), Epilogue(), allow_tf32)
        return
    phase = [triton.cdiv(size, step) for size, step in zip((shape.h, shape.w), shape.stride, strict=True)]
    pixels = shape.n * phase[0] * phase[1]
    steps = [stride // math.gcd(stride, dil) for stride, dil in zip(shape.stride, shape.dilation, strict=True)]
    flat = shape.group_k < FEW_CHANNELS and shape.r * shape.s > 1
    w = weight if shape.r * shape.s == 1 else _channel_fastest(weight)
    launch(
        BACKWARD_INPUT,
        grad,
        lambda config: (
            triton.cdiv(pixels, config["BLOCK_M"]) * triton.cdiv(shape.group_c, config["BLOCK_N"]),
            shape.groups,
            shape.stride[0] * shape.stride[1],
        ),
        {
            "g_ptr": grad,
            "w_ptr": w,
            "gx_ptr": grad_x,
            "images": shape.n,
            **shape.sizes(),
            "group_c": shape.group_c,
            "group_k": shape.group_k,
            **strides("g", "nkpq", grad),
            **strides("w", "kcrs", w),
            **strides("gx", "nchw", grad_x),
        },
        {
            **shape.constants(),
            "STEP_R": steps[0],
            "STEP_S": steps[1],
            "FLAT": flat,
            **precision(grad, allow_tf32),
        },
        hints=(
            pixels,
            shape.group_c,
            triton.cdiv(shape.group_k * shape.r * shape.s, steps[0] * steps[1]),
            shape.groups * shape.stride[0] * shape.stride[1],
            int(flat or grad.stride(1) != 1),
            shape.group_k * shape.r * shape.s if flat else shape.group_k,
        ),
    )


def backward_weight(
    grad: torch.Tensor,
    x: torch.Tensor,
    grad_weight: torch.Tensor,
    shape: Conv2dShape,
    allow_tf32: bool,
    prologue: torch.Tensor | None = None,
) -> None:
    """Write the gradient of the weight to ``grad_weight``, which is contiguous; ``prologue`` as forward."""
    columns = shape.group_c * shape.r * shape.s
    steps = triton.cdiv(shape.pixels, PIXELS_A_STEP)
    tiles = triton.cdiv(shape.group_k, 64) * triton.cdiv(columns, 64) * shape.groups
    splits = splits_for(x, tiles, steps, least_steps=2)
    partial = empty(grad, (splits, *grad_weight.shape), accumulator_dtype(grad))
    narrow = int(x.stride(1) != 1 or grad.stride(1) != 1 or shape.group_c < FEW_CHANNELS)
    each = triton.cdiv(shape.pixels, splits)
    launch(
        BACKWARD_WEIGHT,
        grad,
        lambda config: (
            triton.cdiv(shape.group_k, config["BLOCK_M"]) * triton.cdiv(columns, config["BLOCK_N"]),
            shape.groups,
            splits,
        ),
        {
            "g_ptr": grad,
            "x_ptr": x,
            "in_ptr": prologue,
            "partial_ptr": partial,
            "pixels": shape.pixels,
            "pixels_each": triton.cdiv(steps, splits) * PIXELS_A_STEP,
            **shape.sizes(),
            "group_c": shape.group_c,
            "group_k": shape.group_k,
            **strides("g", "nkpq", grad),
            **strides("x", "nchw", x),
        },
        {
            **shape.constants(),
            "LAST": any_channels_last(x),
            "PROLOGUE": prologue is not None,
            **precision(grad, allow_tf32),
        },
        hints=(shape.group_k, columns, each, shape.groups * splits, narrow, each),
    )
    sum_partials(partial, grad_weight)
