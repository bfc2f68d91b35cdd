"""The arguments of the pools, and the shapes that follow from them: what csrc/common/pool2d_shape.h is to C++."""

from __future__ import annotations

from typing import Any

import torch

from cnnext.ops.arguments import pair, require_tensor

Pair = tuple[int, int]


def batched(input: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """Return ``input`` as (N, C, H, W), and whether a dimension was added to (C, H, W) for that.

    Raises:
        TypeError: it is not a tensor.
        RuntimeError: it has another rank.
    """
    require_tensor(input, "input")
    if input.dim() == 4:
        return input, False
    if input.dim() == 3:
        return input.unsqueeze(0), True
    raise RuntimeError(f"expected `input` with 4 dimensions, or 3 without a batch, but got shape {list(input.shape)}")


def stride_pair(stride: Any, kernel_size: Pair) -> Pair:
    """Return ``stride`` as (height, width); None and an empty sequence stand for the kernel's size."""
    if stride is None or (isinstance(stride, (tuple, list)) and not stride):
        return kernel_size
    return pair(stride, "stride")


def require_bool(value: Any, name: str) -> None:
    """Raise TypeError unless ``value`` is a bool, as torch does: an int is none."""
    if not isinstance(value, bool):
        raise TypeError(f"argument `{name}` must be a bool, but got {type(value).__name__}: {value!r:.60}")


def window_count(size: int, kernel: int, stride: int, pad: int, dilation: int, ceil_mode: bool) -> int:
    """Windows along one axis; with ``ceil_mode`` the last must start inside the input or its left padding."""
    room = size + 2 * pad - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return room // stride + 1
    windows = (room + stride - 1) // stride + 1
    return windows - 1 if (windows - 1) * stride >= size + pad else windows


def pool_output_shape(
    input: torch.Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[int, int, int, int]:
    """Shape of a pool's output.

    Raises:
        RuntimeError: an argument is out of range, or no window fits.
    """
    if input.dim() != 4 or not all(size > 0 for size in input.shape[1:]):
        raise RuntimeError(
            "expected `input` with 4 dimensions of which only the first may be empty, "
            f"but got shape {list(input.shape)}"
        )
    for name, values, least in (
        ("kernel_size", kernel_size, 1),
        ("stride", stride, 1),
        ("padding", padding, 0),
        ("dilation", dilation, 1),
    ):
        if len(values) != 2 or any(value < least for value in values):
            raise RuntimeError(f"expected `{name}` to be two integers of at least {least}, but got {list(values)}")
    if any(pad > kernel // 2 for pad, kernel in zip(padding, kernel_size, strict=True)):
        raise RuntimeError(
            f"expected `padding` of at most half of `kernel_size`, but got {list(padding)} and {list(kernel_size)}"
        )
    p, q = (
        window_count(*axis, ceil_mode)
        for axis in zip(input.shape[2:], kernel_size, stride, padding, dilation, strict=True)
    )
    if p < 1 or q < 1:
        raise RuntimeError(
            f"expected `kernel_size` to fit into the padded input, but got kernel_size {list(kernel_size)}, "
            f"padding {list(padding)} and dilation {list(dilation)} for `input` of shape {list(input.shape)}"
        )
    return input.shape[0], input.shape[1], p, q
