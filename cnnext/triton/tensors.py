"""Outputs, layouts and argument checks for the launchers: what ``csrc/torch/checks.h`` is to C++, same texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from cnnext.backends import DTYPES
from cnnext.ops.arguments import is_channels_last, memory_format

POISON = os.environ.get("CNNEXT_POISON") == "1"
DTYPE_NAMES = {
    torch.float32: "Float",
    torch.float64: "Double",
    torch.float16: "Half",
    torch.bfloat16: "BFloat16",
    torch.uint8: "Byte",
    torch.int32: "Int",
    torch.int64: "Long",
}


def name_of(dtype: torch.dtype) -> str:
    """The name of a dtype in C++, which the texts of refusals use."""
    return DTYPE_NAMES.get(dtype, str(dtype).removeprefix("torch.").capitalize())


def check_rank(tensor: torch.Tensor, name: str, rank: int) -> None:
    """Raise RuntimeError unless ``tensor`` has ``rank`` dimensions."""
    if tensor.dim() != rank:
        raise RuntimeError(f"expected `{name}` with {rank} dimensions, but got shape {list(tensor.shape)}")


def check_shape(tensor: torch.Tensor, name: str, shape: Sequence[int]) -> None:
    """Raise RuntimeError unless ``tensor`` has that shape."""
    if list(tensor.shape) != list(shape):
        raise RuntimeError(f"expected `{name}` of shape {list(shape)}, but got shape {list(tensor.shape)}")


def check_same(tensor: torch.Tensor, name: str, other: torch.Tensor, other_name: str) -> None:
    """Raise RuntimeError unless both tensors have one dtype and lie on one device."""
    if tensor.dtype != other.dtype:
        raise RuntimeError(
            f"expected `{name}` and `{other_name}` of one dtype, but got {name_of(tensor.dtype)} and "
            f"{name_of(other.dtype)}"
        )
    check_same_device(tensor, name, other, other_name)


def check_same_device(tensor: torch.Tensor, name: str, other: torch.Tensor, other_name: str) -> None:
    """Raise RuntimeError unless both tensors lie on one device."""
    if tensor.device != other.device:
        raise RuntimeError(
            f"expected `{name}` and `{other_name}` on one device, but got {tensor.device} and {other.device}"
        )


def check_dtype(tensor: torch.Tensor, name: str) -> None:
    """Raise RuntimeError unless ``tensor`` is of one of the four floating dtypes."""
    if tensor.dtype not in DTYPES:
        raise RuntimeError(
            f"expected `{name}` of dtype float32, float64, float16 or bfloat16, but got {name_of(tensor.dtype)}"
        )


def check_pair(pair: Sequence[int], name: str, at_least: int) -> None:
    """Raise RuntimeError unless ``pair`` is two integers of at least ``at_least``."""
    if len(pair) != 2 or pair[0] < at_least or pair[1] < at_least:
        raise RuntimeError(f"expected `{name}` to be two integers of at least {at_least}, but got {list(pair)}")


def accumulator_dtype(tensor: torch.Tensor) -> torch.dtype:
    """The dtype in which sums over ``tensor`` are kept: float64 for float64, else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def empty(
    like: torch.Tensor, shape: Sequence[int], dtype: torch.dtype | None = None, channels_last: bool = False
) -> torch.Tensor:
    """An unwritten tensor on the device of ``like``, dense in the order N, C, H, W or N, H, W, C.

    Under ``CNNEXT_POISON=1`` it is filled with NaN on the CPU: what a kernel forgets to write is then seen.
    """
    tensor = torch.empty(
        tuple(shape), dtype=dtype or like.dtype, device=like.device, memory_format=memory_format(channels_last)
    )
    if POISON and tensor.device.type == "cpu" and type(tensor) is torch.Tensor:
        storage: Any = tensor.untyped_storage()
        storage.fill_(0xFF)
    return tensor


def any_channels_last(*tensors: torch.Tensor) -> bool:
    """Whether one of the tensors is ordered N, H, W, C, which the result then is too."""
    return any(is_channels_last(tensor) for tensor in tensors)


def strides(name: str, letters: str, tensor: torch.Tensor) -> dict[str, int]:
    """The strides of ``tensor`` as arguments of a kernel: ``x_n x_c x_h x_w`` for name "x" and letters "nchw"."""
    return {f"{name}_{letter}": step for letter, step in zip(letters, tensor.stride(), strict=True) if letter != " "}
