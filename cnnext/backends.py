"""Which implementation runs an op: names, order, reasons, and the switch between them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch

from cnnext import library
from cnnext.eager import EagerOps

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Backend:
    """One implementation of the ops.

    Attributes:
        name: what :func:`backend` takes.
        ops: the ops it runs (those of ``torch.ops.cnnext`` for ``cpu``); None for ``torch``, whose ops are
            called as ``torch.nn.functional`` by ``cnnext/ops/<op>.py`` itself.
    """

    def __init__(self, name: str, ops: Any, refuse: Callable[[str, torch.device, torch.dtype], str | None]):
        self.name, self.ops, self._refuse = name, ops, refuse
        self._reasons: dict[tuple[str, str, torch.dtype], str | None] = {}

    def __repr__(self) -> str:
        return f"<cnnext backend {self.name!r}>"

    def can_run(self, op: str, device: torch.device, dtype: torch.dtype) -> str | None:
        """Return None if this backend runs ``op`` on tensors of that device and dtype, else the reason."""
        key = (op, device.type, dtype)
        try:
            return self._reasons[key]
        except KeyError:
            self._reasons[key] = self._refuse(op, device, dtype)
            return self._reasons[key]


def _cpu_refuses(op: str, device: torch.device, dtype: torch.dtype) -> str | None:
    if library.cpu_unavailable:
        return f"the CPU library is not available: {library.cpu_unavailable}"
    if device.type not in ("cpu", "meta"):
        return f"it runs on the CPU, but the tensors are on {device.type!r}"
    if dtype not in DTYPES:
        return f"it has no kernels for {dtype}"
    return None


CPU = Backend("cpu", EagerOps("cnnext"), _cpu_refuses)
TORCH = Backend("torch", None, lambda op, device, dtype: None)

_BACKENDS = {backend.name: backend for backend in (CPU, TORCH)}
AUTO = "auto"
_current: Backend | None = None  # None is "auto"
_warned: set[str] = set()


def backends() -> tuple[str, ...]:
    """Names that :func:`backend` takes, in the order in which ``"auto"`` tries them."""
    return (AUTO, *_BACKENDS)


def get(name: str) -> Backend:
    """Return the backend of that name.

    Raises:
        ValueError: there is no such backend.
    """
    if name not in _BACKENDS:
        raise ValueError(f"backend={name!r} is unknown: choose one of {', '.join(map(repr, backends()))}")
    return _BACKENDS[name]


def current() -> str:
    """Name of the backend in force."""
    return AUTO if _current is None else _current.name


class backend:  # noqa: N801  (used like torch.no_grad: a function that is also a context manager)
    """Choose who runs the ops, from here on or for the length of a ``with`` block.

    ``"cpu"`` is the C++ implementation, ``"torch"`` is PyTorch's own layers (oneDNN, cuDNN), and ``"auto"``, the
    default, takes the first of :func:`backends` that can run the case and says once why another was passed over.
    The choice is one for the whole process, like ``torch.set_num_threads``.

    Args:
        name: one of :func:`backends`.

    Raises:
        ValueError: ``name`` is unknown. (A chosen backend that cannot run a case raises RuntimeError, with the
            reason, when it is called.)

    Example:
        >>> with cnnext.backend("torch"):
        ...     y = model(x)
        >>> cnnext.backend("cpu")          # until the next choice
    """

    def __init__(self, name: str):
        global _current
        chosen = None if name == AUTO else get(name)
        self._name = name
        self._previous = _current
        _current = chosen

    def __repr__(self) -> str:
        return f"cnnext.backend({self._name!r})"

    def __enter__(self) -> backend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _current
        _current = self._previous


def choose(op: str, tensor: torch.Tensor) -> Backend:
    """Return the backend that runs ``op`` on tensors like ``tensor``.

    Raises:
        RuntimeError: the backend in force cannot run it; the text says why.
    """
    if _current is not None:
        reason = _current.can_run(op, tensor.device, tensor.dtype)
        if reason is not None:
            raise RuntimeError(f"backend {_current.name!r} cannot run {op}: {reason}")
        return _current
    if CPU.can_run(op, tensor.device, tensor.dtype) is None:
        return CPU
    return _fall_back(op, tensor)


def _fall_back(op: str, tensor: torch.Tensor) -> Backend:
    reason = CPU.can_run(op, tensor.device, tensor.dtype) or ""
    if reason not in _warned:
        _warned.add(reason)
        warnings.warn(f"cnnext runs on PyTorch's own layers, for {CPU.name!r} cannot: {reason}", stacklevel=4)
    return TORCH
