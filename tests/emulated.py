"""The CUDA kernels on the CPU: csrc/cuda/*.cu compiled for the emulator, as backends that only tests can name.

    emulated.load("fast")     # namespace cnnext_emulated, backend "emulated"
    emulated.load("traced")   # namespace cnnext_traced, backend "traced": every memory access checked and counted

A backend takes CPU tensors, and has the ops that some csrc/cuda/<op>.cu registers.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import shutil
from pathlib import Path

import torch
from emulator import build

from cnnext import _build, registration
from cnnext.backends import DTYPES, Backend, register_backend
from cnnext.eager import EagerOps

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "csrc/cuda"
BACKENDS = {"fast": "emulated", "traced": "traced", "sanitized": "sanitized"}

_loaded: list[Path] = []


def unavailable() -> str | None:
    """Why the kernels cannot be emulated on this machine; None if they can."""
    if shutil.which("g++") is None:
        return "there is no g++"
    if importlib.util.find_spec("pybind11") is None:
        return "pybind11 is not installed"
    try:
        build.cuda_include()
    except FileNotFoundError as error:
        return str(error)
    return None


def sources() -> list[Path]:
    """The schemas, and every op that has CUDA kernels."""
    return [ROOT / "csrc/library.cpp", *sorted(KERNELS.glob("*.cu"))]


def library(flavour: str, architecture: int = 80) -> Path:
    """The shared library whose ops are those of namespace ``cnnext_<backend>``."""
    include = _build.find_torch_include(Path(torch.__file__).parent.parent)
    assert include is not None
    flags = [*_build.ABI_FLAGS, f"-DCNNEXT_NAMESPACE={namespace(flavour)}", "-isystem", str(include)]
    link = [f"-L{include.parent / 'lib'}", "-ltorch_cpu"]
    return build.library("cnnext", sources(), flavour, architecture=architecture, flags=(*flags,), link_flags=(*link,))


@functools.cache
def choosers() -> ctypes.CDLL:
    """The `fast` library's C functions, which say what the choosers of the kernels' configs take, and why."""
    return ctypes.CDLL(str(library("fast")))


def loaded() -> list[Path]:
    """The libraries of this process."""
    return _loaded


def namespace(flavour: str) -> str:
    return f"cnnext_{BACKENDS[flavour]}"


@functools.cache
def load(flavour: str = "fast") -> Backend:
    """Build and load the library, and register its ops and its backend; once for a process and flavour."""
    build.control(flavour)  # from here on a fault is an exception of its own kind, and counters can be read
    path = library(flavour)
    torch.ops.load_library(path)
    registration.register_namespace(namespace(flavour))

    def refuse(op: str, device: torch.device, dtype: torch.dtype) -> str | None:
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"{namespace(flavour)}::{op}", "CPU"):
            return f"csrc/cuda has no {op}"
        return None if dtype in DTYPES else f"it has no kernels for {dtype}"

    backend = Backend(BACKENDS[flavour], EagerOps(namespace(flavour)), ("cpu", "meta"), refuse)
    register_backend(backend, automatic=False)
    _loaded.append(path)
    return backend
