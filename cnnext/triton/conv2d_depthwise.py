"""Launches of the depthwise kernels of conv2d, and of the gradient of a bias, which is one of them."""

from __future__ import annotations

import torch
import triton

from cnnext.triton.conv2d_configs import BACKWARD_INPUT_DEPTHWISE, BACKWARD_WEIGHT_DEPTHWISE, FORWARD_DEPTHWISE
from cnnext.triton.conv2d_epilogue import Epilogue, Moments
from cnnext.triton.conv2d_gemm import PIXELS_A_STEP
from cnnext.triton.conv2d_shape import Conv2dShape
from cnnext.triton.launch import launch
from cnnext.triton.reduce import splits_for, sum_partials
from cnnext.triton.tensors import accumulator_dtype, any_channels_last, empty, strides


def forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    y: torch.Tensor,
    shape: Conv2dShape,
    epilogue: Epilogue,
    prologue: torch.Tensor | None = None,
) -> Moments | None:
    """Write the convolution to ``y``, of ``x`` as ``prologue`` (4, C) normalises it; return what ``epilogue`` sums."""
    moments = Moments.room_for(FORWARD_DEPTHWISE, 1, shape.pixels, shape.k, x) if epilogue.statistics else None
    launch(
        FORWARD_DEPTHWISE,
        x,
        lambda config: (triton.cdiv(shape.pixels, config["BLOCK_M"]), triton.cdiv(shape.k, config["BLOCK_N"])),
        {
            "x_ptr": x,
            "w_ptr": weight,
            "in_ptr": prologue,
            "y_ptr": y,
            **epilogue.arguments(moments),
            "pixels": shape.pixels,
            **shape.sizes(),
            "channels": shape.k,
            "multiplier": shape.group_k,
            **strides("x", "nchw", x),
            **strides("w", "k rs", weight),
            **strides("y", "nkpq", y),
        },
        {**shape.constants(), "PROLOGUE": prologue is not None, **epilogue.constants()},
        hints=(shape.k, int(any_channels_last(y)), shape.pixels),
    )
    return moments


def backward_input(grad: torch.Tensor, weight: torch.Tensor, grad_x: torch.Tensor, shape: Conv2dShape) -> None:
    """Write the gradient of the input to ``grad_x``."""
    pixels = shape.n * shape.h * shape.w
    launch(
        BACKWARD_INPUT_DEPTHWISE,
        grad,
        lambda config: (triton.cdiv(pixels, config["BLOCK_M"]), triton.cdiv(shape.c, config["BLOCK_N"])),
        {
            "g_ptr": grad,
            "w_ptr": weight,
            "gx_ptr": grad_x,
            "pixels": pixels,
            **shape.sizes(),
            "channels": shape.c,
            "multiplier": shape.group_k,
            **strides("g", "nkpq", grad),
            **strides("w", "k rs", weight),
            **strides("gx", "nchw", grad_x),
        },
        shape.constants(),
        hints=(shape.c, int(any_channels_last(grad_x)), pixels),
    )


def backward_weight(
    grad: torch.Tensor,
    x: torch.Tensor | None,
    output: torch.Tensor,
    shape: Conv2dShape,
    prologue: torch.Tensor | None = None,
) -> None:
    """Write the gradient of the weight to ``output``, which is contiguous; without ``x``, that of the bias."""
    taps = shape.r * shape.s if x is not None else 1
    steps = triton.cdiv(shape.pixels, PIXELS_A_STEP)
    splits = splits_for(grad, shape.k * taps, steps, least_steps=2)
    partial = empty(grad, (splits, output.numel()), accumulator_dtype(grad))
    constants = shape.constants() if x is not None else {**shape.constants(), "R": 1, "S": 1}
    launch(
        BACKWARD_WEIGHT_DEPTHWISE,
        grad,
        lambda config: (triton.cdiv(shape.k, config["BLOCK_N"]) * taps, splits),
        {
            "g_ptr": grad,
            "x_ptr": x,
            "in_ptr": prologue,
            "partial_ptr": partial,
            "pixels": shape.pixels,
            "pixels_each": triton.cdiv(steps, splits) * PIXELS_A_STEP,
            **shape.sizes(),
            "channels": shape.k,
            "multiplier": shape.group_k,
            **strides("g", "nkpq", grad),
            **strides("x", "nchw", x if x is not None else grad),
        },
        {**constants, "HAS_X": x is not None, "PROLOGUE": prologue is not None},
        hints=(shape.k, int(any_channels_last(grad)), shape.pixels),
    )
    sum_partials(partial, output)
