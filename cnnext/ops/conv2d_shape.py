"""Padding, output shapes and layouts of the convolutions."""

from __future__ import annotations

from typing import Any

import torch

from cnnext.ops.arguments import is_channels_last, memory_format

Pair = tuple[int, int]


def pad_by_name(
    input: torch.Tensor, weight: torch.Tensor, padding: str, stride: Pair, dilation: Pair
) -> tuple[torch.Tensor, Pair]:
    """Return the input and the symmetric padding that a name stands for; what is odd is padded here."""
    margin, extra = named_padding(weight, padding, stride, dilation)
    return pad_odd(input, extra), margin


def named_padding(weight: torch.Tensor, padding: str, stride: Pair, dilation: Pair) -> tuple[Pair, Pair]:
    """Return what a name stands for: zeros on both sides, and those that go to the bottom and to the right besides."""
    if padding not in ("same", "valid"):
        raise RuntimeError(f"argument `padding` must be 'same', 'valid', an int or a pair, but got {padding!r}")
    if padding == "valid" or weight.dim() != 4:
        return (0, 0), (0, 0)
    if stride != (1, 1):
        raise RuntimeError(f"padding='same' is not supported for strided convolutions, but got stride={stride}")
    total_h, total_w = (dilation[d] * (weight.shape[d + 2] - 1) for d in (0, 1))
    return (total_h // 2, total_w // 2), (total_h % 2, total_w % 2)


def pad_odd(input: torch.Tensor, extra: Pair) -> torch.Tensor:
    """Return the input with zeros at the bottom and to the right."""
    return torch.nn.functional.pad(input, (0, extra[1], 0, extra[0])) if extra != (0, 0) else input


def conv_output_shape(
    input_size: Any, weight_size: Any, stride: Any, padding: Any, dilation: Any, groups: int, *_: bool
) -> tuple[int, int, int, int]:
    """Return (N, K, P, Q).

    Raises:
        RuntimeError: sizes and arguments do not fit.
    """
    for name, size in (("input", input_size), ("weight", weight_size)):
        if len(size) != 4:
            raise RuntimeError(f"expected `{name}` with 4 dimensions, but got shape {list(size)}")
    n, c, *image = input_size
    k, group_c, *taps = weight_size
    if groups < 1 or c != group_c * groups or k % groups:
        raise RuntimeError(
            f"expected `input` with {group_c * groups} channels (`weight` has {group_c} for each of "
            f"`groups`={groups}) and K={k} divisible by it, but got shape {list(input_size)}"
        )
    out = []
    for d in (0, 1):
        if stride[d] < 1 or dilation[d] < 1 or padding[d] < 0:
            raise RuntimeError(
                f"expected `stride` and `dilation` of at least 1 and `padding` of at least 0, but got "
                f"{list(stride)}, {list(dilation)}, {list(padding)}"
            )
        room = image[d] + 2 * padding[d] - dilation[d] * (taps[d] - 1) - 1
        if room < 0:
            raise RuntimeError(
                f"expected `weight` {list(weight_size)} to fit into the padded `input` {list(input_size)}"
            )
        out.append(room // stride[d] + 1)
    return n, k, out[0], out[1]


def empty_in_layout_of(like: torch.Tensor, other: torch.Tensor, shape: Any) -> torch.Tensor:
    """An unwritten tensor, channels_last if one of the two is, for fakes."""
    channels_last = is_channels_last(like) or is_channels_last(other)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format(channels_last))
