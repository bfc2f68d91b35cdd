"""What every op does with its arguments before a kernel sees them."""

from __future__ import annotations

from typing import Any

import torch


def require_tensor(value: Any, name: str) -> None:
    """Raise TypeError unless ``value`` is a tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"argument `{name}` must be a torch.Tensor, but got {type(value).__name__}: {value!r:.60}")


def require_optional_tensor(value: Any, name: str) -> None:
    """Raise TypeError unless ``value`` is a tensor or None."""
    if value is not None:
        require_tensor(value, name)


def pair(value: Any, name: str) -> tuple[Any, Any]:
    """Return ``value`` as (height, width): an int stands for both, a sequence of one is repeated.

    Raises:
        TypeError: it is neither an int nor a sequence of ints.
        RuntimeError: it is a sequence of another length.
    """
    if type(value) is int:  # the first two lines serve nearly every call, and cost a tenth of the rest
        return value, value
    if type(value) is tuple and len(value) == 2 and type(value[0]) is int and type(value[1]) is int:
        return value
    if _is_int(value):
        return value, value
    if not isinstance(value, (tuple, list)) or not all(_is_int(item) for item in value):
        raise TypeError(f"argument `{name}` must be an int or a pair of ints, but got {value!r}")
    if len(value) == 1:
        return value[0], value[0]
    if len(value) != 2:
        raise RuntimeError(f"argument `{name}` must be an int or a pair of ints, but got {value!r}")
    return value[0], value[1]


def _is_int(value: Any) -> bool:
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)


def require_same_device(name: str, tensor: torch.Tensor, other_name: str, other: torch.Tensor | None) -> None:
    """Raise RuntimeError if two tensors lie on different devices."""
    if other is not None and tensor.device != other.device:
        raise RuntimeError(
            f"expected `{name}` and `{other_name}` on one device, but got {tensor.device} and {other.device}"
        )


def is_channels_last(tensor: torch.Tensor) -> bool:
    """Whether the strides order the memory as N, H, W, C.

    The same rule as ``is_channels_last`` in ``csrc/torch/checks.h``, so that a fake has the strides of the real
    output: sizes of one leave the question open, and the answer is then no.
    """
    if tensor.dim() != 4 or tensor.stride(1) == 0:
        return False
    smallest = 0
    for d in (1, 3, 2, 0):
        size, stride = tensor.size(d), tensor.stride(d)
        if size == 0 or stride < smallest:
            return False
        if d == 0 and smallest == tensor.stride(1):
            return False
        smallest = stride * max(size, 1)
    return True


def memory_format(channels_last: bool) -> torch.memory_format:
    """The torch name of a layout."""
    return torch.channels_last if channels_last else torch.contiguous_format


def new_empty(like: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> torch.Tensor:
    """An unwritten tensor in the layout of ``like``, for fakes."""
    return torch.empty(
        shape,
        dtype=dtype or like.dtype,
        device=like.device,
        memory_format=memory_format(is_channels_last(like)),
    )


def autocast(input: torch.Tensor, *others: torch.Tensor | None) -> tuple[Any, ...]:
    """Return the tensors, cast to the autocast dtype where autocast is on for their device (float64 stays)."""
    device = input.device.type
    if not torch.is_autocast_enabled(device):
        return input, *others
    dtype = torch.get_autocast_dtype(device)
    castable = (torch.float32, torch.float16, torch.bfloat16)
    return tuple(x.to(dtype) if x is not None and x.dtype in castable else x for x in (input, *others))
