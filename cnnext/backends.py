"""Which implementation runs an op: names, order, reasons, and the switch between them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch

from cnnext import cuda_devices, library
from cnnext.eager import EagerOps
from cnnext.registration import constant_when_compiled

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Backend:
    """One implementation of the ops.

    Attributes:
        name: what :func:`backend` takes.
        ops: the ops it runs (those of ``torch.ops.cnnext`` for ``cpu``); None for ``torch``, whose ops are
            called as ``torch.nn.functional`` by ``cnnext/ops/<op>.py`` itself.
        devices: types of the devices whose tensors it takes; None: any.

    Args:
        refuse: ``refuse(op, device, dtype)`` tells why the op cannot be run on tensors of a device among
            ``devices``, or returns None. It is asked once for each combination.
    """

    def __init__(
        self,
        name: str,
        ops: Any,
        devices: tuple[str, ...] | None,
        refuse: Callable[[str, torch.device, torch.dtype], str | None],
    ):
        self.name, self.ops, self.devices = name, ops, devices
        self._refuse = constant_when_compiled(refuse)
        self._reasons: dict[tuple[str, torch.device, torch.dtype], str | None] = {}

    def __repr__(self) -> str:
        return f"<cnnext backend {self.name!r}>"

    def takes(self, device: torch.device) -> bool:
        """Whether this backend is one for tensors on ``device``."""
        return self.devices is None or device.type in self.devices

    def can_run(self, op: str, device: torch.device, dtype: torch.dtype) -> str | None:
        """Return None if this backend runs ``op`` on tensors of that device and dtype, else the reason."""
        key = (op, device, dtype)
        try:
            return self._reasons[key]
        except KeyError:
            self._reasons[key] = self._refuse(op, device, dtype) if self.takes(device) else self._wrong_device(device)
            return self._reasons[key]

    def _wrong_device(self, device: torch.device) -> str:
        home = (self.devices or ())[0]
        needs = "it needs a GPU" if home == "cuda" else f"it runs on {home!r}"
        return f"{needs}, but the tensors are on {device.type!r}"


def _cpu_refuses(op: str, device: torch.device, dtype: torch.dtype) -> str | None:
    if library.cpu_unavailable:
        return f"the CPU library is not available: {library.cpu_unavailable}"
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"cnnext::{op}", "CPU"):
        return f"it has no kernels for {op}"
    if dtype not in DTYPES:
        return f"it has no kernels for {dtype}"
    return None


def _cuda_refuses(op: str, device: torch.device, dtype: torch.dtype) -> str | None:
    if library.cuda_unavailable:
        return f"the CUDA library is not available: {library.cuda_unavailable}"
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"cnnext::{op}", "CUDA"):
        return f"it has no kernels for {op}"
    if dtype not in DTYPES:
        return f"it has no kernels for {dtype}"
    return cuda_devices.refusal(device)


def _triton_refuses(op: str, device: torch.device, dtype: torch.dtype) -> str | None:
    from cnnext import triton  # only when asked for, for it imports the compiler

    return triton.refuse(op, device, dtype)


INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "on", "true", "yes", "y")
"""Whether Triton's kernels run in its interpreter: slowly, and on the CPU too. Then they run by their name alone."""

CPU = Backend("cpu", EagerOps("cnnext"), ("cpu", "meta"), _cpu_refuses)
CUDA = Backend("cuda", CPU.ops, ("cuda",), _cuda_refuses)
TRITON = Backend(
    "triton", EagerOps("cnnext_triton"), ("cuda", "cpu", "meta") if INTERPRETED else ("cuda",), _triton_refuses
)
TORCH = Backend("torch", None, None, lambda op, device, dtype: None)

FIRST, AUTO = "first", "auto"
CHOOSERS = (FIRST, AUTO)
"""Names that stand for a choice among the backends: the first that can run a case, or the one measured fastest."""

_automatic = [CPU, CUDA, TORCH]
_by_name = {one.name: one for one in _automatic}
_current: Backend | None = None  # None: one of CHOOSERS
_measured: Callable[..., Backend] | None = None  # cnnext.auto.choose while "auto" is in force
_warned: set[str] = set()


def register_backend(new: Backend, automatic: bool = True) -> None:
    """Add a backend, so that :func:`backend` takes its name.

    Args:
        new: its ops must be registered for a namespace (:func:`cnnext.registration.register_namespace`).
        automatic: whether it is one of :func:`backends`, tried by ``"first"`` after those that are there and before
            ``"torch"``, and measured by ``"auto"``. One that is not is reached by its name alone: the tests run the
            CUDA kernels on the CPU so.

    Raises:
        ValueError: the name is taken.
    """
    if new.name in (*CHOOSERS, *_by_name):
        raise ValueError(f"backend={new.name!r} is registered already")
    _by_name[new.name] = new
    if automatic:
        _automatic.insert(-1, new)


register_backend(TRITON, automatic=not INTERPRETED)


def backends() -> tuple[str, ...]:
    """Names that :func:`backend` takes: two that choose, then the others as ``"first"`` tries them."""
    return (*CHOOSERS, *(one.name for one in _automatic))


def registered() -> tuple[Backend, ...]:
    """Every backend, those that only tests use too."""
    return tuple(_by_name.values())


def get(name: str) -> Backend:
    """Return the backend of that name.

    Raises:
        ValueError: there is no such backend.
    """
    if name not in _by_name:
        raise ValueError(f"backend={name!r} is unknown: choose one of {', '.join(map(repr, backends()))}")
    return _by_name[name]


def current() -> str:
    """Name of the backend in force."""
    if _current is not None:
        return _current.name
    return FIRST if _measured is None else AUTO


class backend:  # noqa: N801  (used like torch.no_grad: a function that is also a context manager)
    """Choose who runs the ops, from here on or for the length of a ``with`` block.

    ``"cpu"`` is the C++ implementation, ``"cuda"`` that in CUDA, ``"triton"`` that in Triton, ``"torch"`` is PyTorch's
    own layers (oneDNN, cuDNN). ``"first"``, the default, takes the first of :func:`backends` that can run the case and
    says once why another was passed over. ``"auto"`` measures those that can, once for each kind of call, and remembers
    the fastest on disk (:mod:`cnnext.auto`).
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
        global _current, _measured
        chosen = None if name in CHOOSERS else get(name)
        self._name = name
        self._previous = _current, _measured
        _current, _measured = chosen, _choose_by_measuring() if name == AUTO else None

    def __repr__(self) -> str:
        return f"cnnext.backend({self._name!r})"

    def __enter__(self) -> backend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _current, _measured
        _current, _measured = self._previous


@constant_when_compiled
def _choose_by_measuring() -> Callable[..., Backend]:
    from cnnext import auto  # only when asked for

    return auto.choose


def choose(
    op: str,
    input: torch.Tensor,
    function: Callable[..., Any] | None = None,
    tensors: tuple[torch.Tensor | None, ...] = (),
    others: tuple[Any, ...] = (),
) -> Backend:
    """Return the backend that runs ``op`` on tensors like ``input``.

    Args:
        op: what the backend must be able to run.
        input: its first tensor.
        function: the public function that asks, and is called to measure; without one nothing is measured.
        tensors, others: what ``function`` was called with, after ``input``.

    Raises:
        RuntimeError: the backend in force cannot run it; the text says why.
    """
    if _current is not None:
        reason = _current.can_run(op, input.device, input.dtype)
        if reason is not None:
            raise RuntimeError(f"backend {_current.name!r} cannot run {op}: {reason}")
        return _current
    if _measured is not None and function is not None:
        return _measured(op, input, function, tensors, others)
    return first(op, input)


def first(op: str, tensor: torch.Tensor) -> Backend:
    """The first backend that can run ``op`` on tensors like ``tensor``."""
    for candidate in _automatic:
        if candidate.can_run(op, tensor.device, tensor.dtype) is None:
            if candidate is not _automatic[0]:
                _warn_of_those_before(candidate, op, tensor)
            return candidate
    raise AssertionError("torch runs everything")


def candidates(op: str, tensor: torch.Tensor) -> list[Backend]:
    """Every backend that can run ``op`` on tensors like ``tensor``, but those that are reached by their name alone."""
    return [one for one in _automatic if one.can_run(op, tensor.device, tensor.dtype) is None]


def _warn_of_those_before(chosen: Backend, op: str, tensor: torch.Tensor) -> None:
    """Say once why a backend for the tensor's device was passed over."""
    for passed in _automatic[: _automatic.index(chosen)]:
        reason = passed.can_run(op, tensor.device, tensor.dtype)
        if passed.takes(tensor.device) and reason is not None and reason not in _warned:
            _warned.add(reason)
            runner = "PyTorch's own layers" if chosen is TORCH else f"backend {chosen.name!r}"
            warnings.warn(f"cnnext runs on {runner}, for {passed.name!r} cannot: {reason}", stacklevel=5)
