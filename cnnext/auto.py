"""The backend ``"auto"``: for each kind of call the fastest of those that can run it, measured once on this machine.

A kind of call is an op, the shapes of its tensors (the batch up to the next power of two), their dtypes and layouts,
its other arguments, and which tensors need a gradient: a call that will be differentiated is measured with its backward
pass. The first such call runs every candidate in turns on copies of its tensors, and the winner goes into a file of the
cache folder, which is one for the device, the number of threads, and the versions of torch and of our kernels.
Within a process what was chosen holds for every later call that has the same arguments, input and shape of the weight:
to look at more (whether there is a bias, say) would cost each call more than it could gain.

Nothing is measured where that would disturb or could not be repeated: under ``torch.compile``, while a CUDA graph is
captured, under ``torch.func`` transforms, dispatch modes and tracing, and for tensors that have no data of their own.
There what is known already is used, and otherwise the first backend that can run the call, as under ``"first"``. Under
``torch.use_deterministic_algorithms`` that is so always, for what was once the fastest may differ between two runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

import cnnext
from cnnext import _build
from cnnext.backends import Backend, candidates, first, get
from cnnext.choices import Choices
from cnnext.library import cache_folder
from cnnext.registration import constant_when_compiled

SECONDS = 0.1
"""What measuring one kind of call takes, if three rounds of all candidates take no longer."""
Key = tuple[Any, ...]
Tensors = tuple[torch.Tensor | None, ...]
NONE, TENSOR, GRAD = ("none",), ("tensor",), ("grad",)
HAS_CUDA = torch.cuda.is_available()


class _Thread(threading.local):
    forced: Backend | None = None  # what this thread measures


_thread = _Thread()
_measuring = 0  # how many threads do
_chosen: dict[Key, Backend] = {}  # by the short key of choose()
_tables: dict[Path, Choices] = {}
_lock = threading.Lock()
_deterministic, _grad, _threads = torch._C._get_deterministic_algorithms, torch.is_grad_enabled, torch.get_num_threads
_is_compiling = torch.compiler.is_compiling
measured: list[tuple[str, dict[str, float]]] = []
"""What this process measured: the kind of call, and the seconds of each candidate."""


def choose(op: str, input: torch.Tensor, function: Callable[..., Any], tensors: Tensors, others: Key) -> Backend:
    """Return the backend for a call; :func:`cnnext.backends.choose` says what the arguments are."""
    if _is_compiling():
        return _choose_in_a_trace(op, input, tensors, others)
    if _measuring and _thread.forced is not None:
        return _thread.forced
    if _deterministic():
        return first(op, input)
    # As few looks at tensors as tell most calls apart: each takes a tenth of a µs, and half a one after a kernel has
    # swept the caches. A norm's parameters follow from its input.
    grad = _grad() and input.requires_grad
    layout = input.is_contiguous() or input.stride()
    key: Key
    if not tensors or op == "batch_norm":
        key = (op, _threads(), others, input.shape, layout, input.dtype, grad)
    else:
        weight = tensors[0]
        assert weight is not None
        learns = _grad() and weight.requires_grad
        key = (op, _threads(), others, input.shape, layout, input.dtype, grad, weight.shape, learns)
    if not input.is_cpu:
        key += (input.device, *_shortcuts())
    try:
        return _chosen[key]
    except KeyError:
        return _choose(key, op, input, function, tensors, others)
    except TypeError:  # a list in place of a tuple cannot be hashed
        return choose(op, input, function, tensors, tuple(tuple(x) if isinstance(x, list) else x for x in others))


def _shortcuts() -> Key:
    """What makes a GPU take numbers or algorithms of another speed."""
    return torch._C._get_cudnn_allow_tf32(), torch._C._get_cudnn_benchmark()


def _key(op: str, threads: int, input: torch.Tensor, tensors: Tensors, others: Key) -> Key:
    """All that a choice depends on.

    Of the tensors after the second only whether they are there and need a gradient: the first two settle the rest.
    """
    grad = _grad()
    key: Key = (op, threads, others, input.shape, input.stride(), input.dtype) + (
        input.device,
        grad and input.requires_grad,
    )
    alone = True
    for one in tensors:
        if one is None:
            key += NONE
        elif alone:
            alone = False
            key += (one.shape, one.stride(), one.dtype, grad and one.requires_grad)
        else:
            key += GRAD if grad and one.requires_grad else TENSOR
    return key + _shortcuts() if HAS_CUDA and input.is_cuda else key


def _choose_in_a_trace(op: str, input: torch.Tensor, tensors: Tensors, others: Key) -> Backend:
    from torch.fx.experimental.symbolic_shapes import has_static_value  # a second to import, and here it is there

    if torch.are_deterministic_algorithms_enabled() or not all(has_static_value(size) for size in input.shape):
        return first(op, input)
    name = _known(_key(op, _threads_in_a_trace(), input, tensors, others))
    return first(op, input) if name is None else get(name)


@constant_when_compiled
def _threads_in_a_trace() -> int:
    return _threads()


@constant_when_compiled
def _known(key: Key) -> str | None:
    """The name of the backend that was measured before, in this process or another."""
    return _table(key).get(bucket(key))


def _choose(
    short_key: Key, op: str, input: torch.Tensor, function: Callable[..., Any], tensors: Tensors, others: Key
) -> Backend:
    """The choice for a call that this process has not seen."""
    able = candidates(op, input)
    if len(able) < 2 or input.numel() == 0:
        _chosen[short_key] = first(op, input)
        return _chosen[short_key]
    key = _key(op, _threads(), input, tensors, others)
    with _lock:
        kind, table = bucket(key), _table(key)
        name = table.get(kind)
        backend = next((one for one in able if one.name == name), None)
        if backend is None:
            if not _can_measure((input, *tensors)):
                return first(op, input)
            times = _measure(able, function, (input, *tensors), others)
            if not times:  # none could: the error is for the caller to see
                return first(op, input)
            backend = get(min(times, key=lambda one: times[one]))
            measured.append((kind, times))
            table.remember(kind, backend.name)
    _chosen[short_key] = backend
    return backend


def bucket(key: Key) -> str:
    """What calls share a choice, in words: as their key, with a batch up to the next power of two."""
    op, _, others, size, stride, dtype, _, grad, *parts = key
    if len(size) == 4:
        size = torch.Size((1 << (size[0] - 1).bit_length(), *size[1:]))
    words = [op, _tensor_words(size, stride, dtype, grad)]
    while parts:
        one = parts.pop(0)
        if isinstance(one, torch.Size):
            one = _tensor_words(one, *(parts.pop(0) for _ in range(3)))
        words.append(str(one))
    return " ".join([*words, *(str(one).replace(" ", "") for one in others)])


def _tensor_words(size: torch.Size, stride: tuple[int, ...], dtype: torch.dtype, grad: bool) -> str:
    kind = f"{str(dtype).removeprefix('torch.')}:{_layout(size, stride)}"
    return f"{'x'.join(map(str, size))}:{kind}{':grad' if grad else ''}"


def _layout(size: torch.Size, stride: tuple[int, ...]) -> str:
    """The dimensions from the largest step to the smallest, those of size one left out; ``-`` where memory has gaps."""
    order = sorted((d for d in range(len(size)) if size[d] > 1), key=lambda d: -stride[d])
    expected, dense = 1, True
    for d in reversed(order):
        dense, expected = dense and stride[d] == expected, expected * size[d]
    return "".join(map(str, order)) + ("" if dense else "-")


def _table(key: Key) -> Choices:
    path = cache_file(key[6], key[1])
    if path not in _tables:
        _tables[path] = Choices(path)
    return _tables[path]


def cache_file(device: torch.device, threads: int) -> Path:
    """Where the choices for a device are kept; other versions of torch or of our kernels have another file."""
    if device.type == "cuda":
        name, count = torch.cuda.get_device_name(device), 0
    else:
        name, count = f"{device.type} {platform.machine()} {platform.node()}", threads
    stamps = (_build.CPU.stamp(), _build.CUDA.stamp(), os.environ.get("CNNEXT_ISA"), os.environ.get("CNNEXT_CONV2D"))
    versions = f"{name} {count} {torch.__version__} {cnnext.__version__} {stamps}"
    words = re.sub(r"\W+", "-", f"{name} {count}" if count else name)
    return cache_folder() / "auto" / f"{words}-{hashlib.sha256(versions.encode()).hexdigest()[:16]}.json"


def _can_measure(tensors: Iterable[torch.Tensor | None]) -> bool:
    present = [one for one in tensors if one is not None]
    if any(type(one) not in (torch.Tensor, torch.nn.Parameter) or one.device.type == "meta" for one in present):
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None or torch._C._len_torch_dispatch_stack():
        return False
    if torch._C._get_tracing_state() is not None:
        return False
    return not (present[0].is_cuda and torch.cuda.is_current_stream_capturing())


def _measure(able: list[Backend], function: Callable[..., Any], tensors: Tensors, others: Key) -> dict[str, float]:
    """Seconds of each candidate that runs without an error, on copies of the tensors.

    In the caller's thread: OpenMP gives another one threads of its own, which then are more than there are cores.
    """
    grad = _grad() and not torch.is_inference_mode_enabled()
    with torch.no_grad():
        copies = [None if one is None else one.detach().clone() for one in tensors]
    wanted = [
        copy.requires_grad_()
        for copy, one in zip(copies, tensors, strict=True)
        if copy is not None and one is not None and one.requires_grad and grad
    ]
    global _measuring
    _measuring += 1
    try:
        with torch.set_grad_enabled(bool(wanted)), _without_hooks():
            return _time(able, lambda: function(*copies, *others), wanted, tensors[0])
    finally:
        _measuring -= 1
        _thread.forced = None


def _time(able: list[Backend], call: Callable[[], Any], wanted: list[torch.Tensor], like: Any) -> dict[str, float]:
    from cnnext.bench.timing import Contender, spread, take_turns  # only to measure

    def runner(backend: Backend) -> Callable[[], Any]:
        def run() -> Any:
            _thread.forced = backend
            result = call()
            if not wanted:
                return result
            output = result if isinstance(result, torch.Tensor) else result[0]
            return torch.autograd.grad(output, wanted, torch.ones_like(output))

        return run

    contenders = {}
    for backend in able:
        run = runner(backend)
        try:
            run()
        except Exception:  # whatever a backend cannot do after all; the others go on
            continue
        contenders[backend.name] = Contender(run)
    taken = take_turns(contenders, like.device, SECONDS, least=3)
    return {name: spread(one.seconds).median for name, one in taken.items()}


def _without_hooks() -> Any:
    """A context in which what is saved for a backward pass does not go through the caller's hooks."""
    if torch._C._autograd._top_saved_tensors_default_hooks(False) is None:
        return contextlib.nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
