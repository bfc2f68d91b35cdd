"""conv2d: two-dimensional convolution of a batch, as neural networks use the word (a cross-correlation)."""

from __future__ import annotations

from typing import Any

import torch

from cnnext.backends import TORCH, choose
from cnnext.ops.arguments import autocast, pair, require_optional_tensor, require_same_device, require_tensor
from cnnext.ops.conv2d_shape import Pair, conv_output_shape, empty_in_layout_of, pad_by_name
from cnnext.ops.precision import float32_shortcuts
from cnnext.registration import OpSpec, declare


def conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Pair = 1,
    padding: str | int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> torch.Tensor:
    """Two-dimensional convolution with stride, padding, dilation and groups.

    ``output[n, k, p, q] = bias[k] + Σ_{c,r,s} input[n, c, p·stride − padding + r·dilation, …] · weight[k, c, r, s]``

    Args:
        input: shape (N, C, H, W) or (C, H, W); float32, float64, float16 or bfloat16.
        weight: shape (K, C / groups, R, S), of the same dtype and device.
        bias: shape (K,), of the same dtype and device, or None.
        stride: step between windows, at least 1.
        padding: zeros on both sides of each dimension, at least 0; ``"valid"`` is none, and ``"same"`` keeps the
            size (stride 1 only; an odd zero goes to the right and to the bottom).
        dilation: step between taps, at least 1.
        groups: divides C and K; output channels of a group see the input channels of that group only.

    Returns:
        Shape (N, K, P, Q) or (K, P, Q) with P = ⌊(H + 2·padding − dilation·(R − 1) − 1) / stride⌋ + 1; of the
        input's dtype, channels_last if the input or the weight is.

    Raises:
        TypeError: an argument is of the wrong type.
        RuntimeError: shapes, values, dtypes or devices do not fit; the text names the argument and its value.

    16-bit inputs are accumulated in float32. Under autocast the tensors are cast to the autocast dtype, as torch
    does. Deterministic for any number of threads. Differentiable any number of times.
    Equivalent: ``torch.nn.functional.conv2d``. Source: "Dive into Deep Learning", sections 7.2 to 7.4.
    """
    require_tensor(input, "input")
    require_tensor(weight, "weight")
    require_optional_tensor(bias, "bias")
    require_same_device("input", input, "weight", weight)
    require_same_device("input", input, "bias", bias)
    input, weight, bias = autocast(input, weight, bias)
    backend = choose("conv2d", input, conv2d, (weight, bias), (stride, padding, dilation, groups))
    if backend is TORCH:
        return torch.nn.functional.conv2d(input, weight, bias, stride, padding, dilation, groups)
    if input.dim() == 3:
        return conv2d(input[None], weight, bias, stride, padding, dilation, groups)[0]
    step, spread = pair(stride, "stride"), pair(dilation, "dilation")
    if isinstance(padding, str):
        input, margin = pad_by_name(input, weight, padding, step, spread)
    else:
        margin = pair(padding, "padding")
    if not isinstance(groups, int) or isinstance(groups, bool):
        raise TypeError(f"argument `groups` must be an int, but got {groups!r}")
    return backend.ops.conv2d(input, weight, bias, step, margin, spread, groups, *float32_shortcuts(input))


def _flops(input_shape: Any, weight_shape: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    n, k, p, q = out_shape
    return 2 * n * k * p * q * weight_shape[1] * weight_shape[2] * weight_shape[3]


def _flops_backward_input(grad_shape: Any, weight_shape: Any, *_: Any, **__: Any) -> int:
    return _flops(None, weight_shape, out_shape=grad_shape)


def _flops_backward_weight(grad_shape: Any, input_shape: Any, weight_size: Any, *_: Any, **__: Any) -> int:
    return _flops(None, weight_size, out_shape=grad_shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    input, weight, _, *ctx.geometry = inputs
    ctx.save_for_backward(input, weight)


def _save_with_size(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    first, second, _, *ctx.geometry = inputs
    ctx.save_for_backward(first, second)


def _no_gradients(ctx: Any) -> tuple[None, ...]:
    """For stride, padding, dilation, groups, allow_tf32 and allow_winograd."""
    return (None,) * len(ctx.geometry)


def _backward(ops: Any, ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    input, weight = ctx.saved_tensors
    wants_input, wants_weight, wants_bias = ctx.needs_input_grad[:3]
    grad_input = grad_weight = grad_bias = None
    if wants_input:
        grad_input = ops.conv2d_backward_input(grad, weight, input.shape, *ctx.geometry)
    if wants_weight or wants_bias:
        grad_weight, grad_bias = ops.conv2d_backward_weight(grad, input, weight.shape, *ctx.geometry)
    return (
        grad_input,
        grad_weight if wants_weight else None,
        grad_bias if wants_bias else None,
        *_no_gradients(ctx),
    )


def _backward_input_backward(ops: Any, ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    grad_output, weight = ctx.saved_tensors
    wants_grad_output, wants_weight = ctx.needs_input_grad[:2]
    to_grad_output = to_weight = None
    if wants_grad_output:
        to_grad_output = ops.conv2d(grad, weight, None, *ctx.geometry)
    if wants_weight:
        to_weight, _ = ops.conv2d_backward_weight(grad_output, grad, weight.shape, *ctx.geometry)
    return to_grad_output, to_weight, None, *_no_gradients(ctx)


def _backward_weight_backward(ops: Any, ctx: Any, grad_weight: Any, grad_bias: Any) -> tuple[Any, ...]:
    grad_output, input = ctx.saved_tensors
    wants_grad_output, wants_input = ctx.needs_input_grad[:2]
    to_grad_output = to_input = None
    if wants_grad_output:
        to_grad_output = ops.conv2d(input, grad_weight, grad_bias, *ctx.geometry)
    if wants_input:
        to_input = ops.conv2d_backward_input(grad_output, grad_weight, input.shape, *ctx.geometry)
    return to_grad_output, to_input, None, *_no_gradients(ctx)


declare(
    OpSpec(
        name="conv2d",
        fake=lambda input, weight, bias, *geometry: empty_in_layout_of(
            input, weight, conv_output_shape(input.shape, weight.shape, *geometry)
        ),
        save=_save,
        backward=_backward,
        flops=_flops,
    ),
    OpSpec(
        name="conv2d_backward_input",
        fake=lambda grad, weight, input_size, *geometry: empty_in_layout_of(grad, weight, input_size),
        save=_save_with_size,
        backward=_backward_input_backward,
        flops=_flops_backward_input,
    ),
    OpSpec(
        name="conv2d_backward_weight",
        fake=lambda grad, input, weight_size, *geometry: (
            grad.new_empty(weight_size),
            grad.new_empty((weight_size[0],)),
        ),
        save=_save_with_size,
        backward=_backward_weight_backward,
        flops=_flops_backward_weight,
    ),
)
