"""What float32 convolutions may be calculated with besides float32: TF32 and Winograd's algorithm."""

from __future__ import annotations

from types import TracebackType

import torch

from cnnext.registration import constant_when_compiled


def float32_shortcuts(tensor: torch.Tensor) -> tuple[bool, bool]:
    """Return the arguments ``allow_tf32`` and ``allow_winograd`` of the conv2d ops for inputs like ``tensor``.

    TF32 is a matter of GPUs, and follows torch's switch for cuDNN's convolutions
    (``torch.backends.cudnn.allow_tf32``, or its successor ``torch.backends.cudnn.conv.fp32_precision``).
    Winograd's algorithm is in the CUDA backend so far; :class:`allow_winograd` is its switch.
    """
    if tensor.device.type != "cuda" or tensor.dtype != torch.float32:
        return False, False
    return _torch_allows_tf32(), _winograd_is_allowed()


_winograd = True


class allow_winograd:  # noqa: N801  (used like torch.no_grad: a function that is also a context manager)
    """Allow Winograd's algorithm or forbid it, from here on or for the length of a ``with`` block.

    It computes 3x3 convolutions of stride 1 in float32 with fewer multiplications, and larger errors: up to 16 times
    torch's instead of twice, and a NaN or an infinity of the input spreads to neighbouring outputs. It is allowed by
    default, as in cuDNN. The choice is one for the whole process.

    Args:
        allowed: whether kernels may use it.

    Raises:
        TypeError: ``allowed`` is not a bool.

    Example:
        >>> with cnnext.allow_winograd(False):
        ...     y = model(x)
    """

    def __init__(self, allowed: bool):
        global _winograd
        if not isinstance(allowed, bool):
            raise TypeError(f"argument `allowed` must be a bool, but got {allowed!r}")
        self._allowed = allowed
        self._previous = _winograd
        _winograd = allowed

    def __repr__(self) -> str:
        return f"cnnext.allow_winograd({self._allowed})"

    def __enter__(self) -> allow_winograd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _winograd
        _winograd = self._previous


@constant_when_compiled
def _winograd_is_allowed() -> bool:
    return _winograd


@constant_when_compiled
def _torch_allows_tf32() -> bool:
    return bool(torch.backends.cudnn.conv.fp32_precision == "tf32")  # type: ignore[attr-defined]
