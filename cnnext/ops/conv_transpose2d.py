"""conv_transpose2d: convolution with a stride below one, which is conv2d's gradient with respect to its input."""

from __future__ import annotations

from typing import Any

import torch

from cnnext.backends import TORCH, choose
from cnnext.ops.arguments import autocast, pair, require_optional_tensor, require_same_device, require_tensor
from cnnext.ops.precision import float32_shortcuts


def conv_transpose2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> torch.Tensor:
    """Transposed convolution: each input pixel adds its multiple of the kernel to the output, ``stride`` apart.

    ``output[n, k, p·stride − padding + r·dilation, …] += input[n, c, p, q] · weight[c, k, r, s]``, on top of ``bias``

    Args:
        input: shape (N, C, H, W) or (C, H, W); float32, float64, float16 or bfloat16.
        weight: shape (C, K / groups, R, S), of the same dtype and device.
        bias: shape (K).
        stride: an int or a pair ≥ 1; two makes the output twice as large, a stride of one half.
        padding: an int or a pair ≥ 0; so much is cut from every side of the output.
        output_padding: an int or a pair ≥ 0, below stride or dilation: rows and columns more at the end.
        groups: divides C and K.
        dilation: an int or a pair ≥ 1.

    Returns:
        Shape (N, K, P, Q) or (K, P, Q) with P = (H − 1)·stride − 2·padding + dilation·(R − 1) + output_padding + 1.

    Raises:
        TypeError: an argument is of the wrong type.
        RuntimeError: the shapes or values do not fit, or dtypes or devices differ.

    Runs as conv2d's backward pass for its input, with its accumulation type, layouts and determinism, and is
    differentiable any number of times. Under ``torch.autocast`` it casts as torch's does.
    Equivalent: ``torch.nn.functional.conv_transpose2d`` with the same arguments.
    """
    require_tensor(input, "input")
    require_tensor(weight, "weight")
    require_optional_tensor(bias, "bias")
    require_same_device("input", input, "weight", weight)
    require_same_device("input", input, "bias", bias)
    strides, paddings = pair(stride, "stride"), pair(padding, "padding")
    extra, dilations = pair(output_padding, "output_padding"), pair(dilation, "dilation")
    input, weight, bias = autocast(input, weight, bias)
    others = (strides, paddings, extra, groups, dilations)
    backend = choose("conv2d_backward_input", input, conv_transpose2d, (weight, bias), others)
    if backend is TORCH:
        return torch.nn.functional.conv_transpose2d(input, weight, bias, *others)
    _require_fit(input, weight, bias, groups)
    _require_range(strides, paddings, extra, dilations)
    batched = input if input.dim() == 4 else input.unsqueeze(0)
    n, _, *size = batched.shape
    size = [
        (size[d] - 1) * strides[d] - 2 * paddings[d] + dilations[d] * (weight.shape[2 + d] - 1) + extra[d] + 1
        for d in (0, 1)
    ]
    if min(size) < 1:
        raise RuntimeError(
            f"`input` of shape {list(input.shape)} with `weight` of shape {list(weight.shape)} and "
            f"`padding` {paddings} gives an output of {size[0]} × {size[1]} pixels"
        )
    # A conv2d of an output that is longer by a stride or more has more pixels than our input: those are zero.
    rows, columns = extra[0] // strides[0], extra[1] // strides[1]
    if rows or columns:
        batched = torch.nn.functional.pad(batched, (0, columns, 0, rows))
    output = backend.ops.conv2d_backward_input(
        batched,
        weight,
        [n, weight.shape[1] * groups, *size],
        strides,
        paddings,
        dilations,
        groups,
        *float32_shortcuts(batched),
    )
    if bias is not None:
        output = _AddBias.apply(output, bias)
    return output if input.dim() == 4 else output.squeeze(0)


class _AddBias(torch.autograd.Function):
    """``output + bias`` per channel. The gradient of the bias is summed in float64, as exactly as conv2d's."""

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return output + bias.reshape(-1, 1, 1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        wants_bias = ctx.needs_input_grad[1]
        return grad, grad.sum((0, 2, 3), dtype=torch.float64).to(grad.dtype) if wants_bias else None


def _require_fit(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, groups: Any) -> None:
    if isinstance(groups, bool) or not isinstance(groups, int):
        raise TypeError(f"argument `groups` must be an int, but got {groups!r}")
    if input.dim() not in (3, 4):
        raise RuntimeError(f"expected `input` of shape [N, C, H, W] or [C, H, W], but got {list(input.shape)}")
    if weight.dim() != 4 or 0 in weight.shape[1:]:
        raise RuntimeError(f"expected `weight` of shape [C, K / groups, R, S], but got {list(weight.shape)}")
    channels = input.shape[-3]
    if weight.shape[0] != channels:
        raise RuntimeError(
            f"expected `weight` of shape {list(weight.shape)} to have the {channels} channels of `input` of shape "
            f"{list(input.shape)} first"
        )
    if groups < 1 or channels % groups:
        raise RuntimeError(f"expected `groups` to divide the {channels} channels of `input`, but got {groups}")
    if bias is not None and tuple(bias.shape) != (weight.shape[1] * groups,):
        raise RuntimeError(f"expected `bias` of shape [{weight.shape[1] * groups}], but got {list(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype != input.dtype:
            raise RuntimeError(f"expected `{name}` of the dtype of `input`, {input.dtype}, but got {tensor.dtype}")


def _require_range(
    stride: tuple[int, int], padding: tuple[int, int], extra: tuple[int, int], dilation: tuple[int, int]
) -> None:
    for name, value, least in (
        ("stride", stride, 1),
        ("padding", padding, 0),
        ("output_padding", extra, 0),
        ("dilation", dilation, 1),
    ):
        if min(value) < least:
            raise RuntimeError(f"expected `{name}` of at least {least}, but got {value}")
    for d in (0, 1):
        if extra[d] >= max(stride[d], dilation[d]):
            raise RuntimeError(
                f"expected `output_padding` below stride {stride} or dilation {dilation}, but got {extra}"
            )
