"""Measuring configs: on request, once per device, kernel, kind of numbers and sizes, remembered on disk.

Tuning is on where ``torch.backends.cudnn.benchmark`` is, torch's own switch for measuring algorithms, unless
``torch.use_deterministic_algorithms`` is (two configs add in two orders); ``CNNEXT_TRITON_TUNE=1`` or ``0`` overrides.
Off, and while a graph is traced or captured, the heuristic's choice runs.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton

from cnnext.choices import Choices
from cnnext.library import cache_folder
from cnnext.triton.target import INTERPRETER, Target

_files: dict[Path, Choices] = {}


def wanted(tensor: torch.Tensor) -> bool:
    """Whether to measure, and to use what was measured, for launches over ``tensor``."""
    chosen = os.environ.get("CNNEXT_TRITON_TUNE")
    if chosen is None and (not torch.backends.cudnn.benchmark or torch.are_deterministic_algorithms_enabled()):
        return False
    if chosen == "0" or type(tensor) is not torch.Tensor or tensor.device.type == "meta":
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def bucket(kernel: str, kind: str, constants: dict[str, Any], hints: tuple[int, ...]) -> str:
    """What launches share a choice: the same kernel, kind and constants, and sizes up to the same powers of two."""
    rounded = [triton.next_power_of_2(size) if size > 1 else size for size in hints]
    return f"{kernel} {kind} {rounded} " + " ".join(f"{name}={constants[name]}" for name in sorted(constants))


def cache_file(on: Target) -> Path:
    """Where the choices for a device are kept; another Triton, or other kernels, have another file."""
    device = re.sub(r"\W+", "-", on.name if on is not INTERPRETER else f"{on.name} {platform.machine()}")
    versions = f"{device} {on.capability} {torch.__version__} {triton.__version__} {_kernels_hash()}"
    return cache_folder() / "triton" / f"{device}-{hashlib.sha256(versions.encode()).hexdigest()[:16]}.json"


@functools.cache
def _kernels_hash() -> str:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def best_first(
    configs: list[triton.Config], on: Target, key: str, measure: Callable[[list[triton.Config]], triton.Config]
) -> list[triton.Config]:
    """``configs`` with the fastest in front: the remembered one, or what ``measure`` returns, which is remembered.

    Args:
        configs: at least one, in the order of the heuristic.
        on: the target.
        key: of :func:`bucket`.
        measure: returns the fastest of the configs.
    """
    path = cache_file(on)
    if path not in _files:
        _files[path] = Choices(path)
    best = next((config for config in configs if str(config) == _files[path].get(key)), None)
    if best is None:
        best = measure(configs)
        _files[path].remember(key, str(best))
    return [best, *(config for config in configs if config is not best)]


def measure_by(
    function: Any, grid: Callable[[dict[str, int]], tuple[int, ...]], values: dict[str, Any], on: Target
) -> Callable[[list[triton.Config]], triton.Config]:
    """A ``measure`` for :func:`best_first`: ``triton.autotune`` over the launch that is about to be made."""

    def measure(configs: list[triton.Config]) -> triton.Config:
        bench = {"do_bench": _time_on_the_cpu} if on is INTERPRETER else {}
        tuner: Any = triton.autotune(configs=configs, key=[], **bench)(function)
        tuner[grid](**values)
        return tuner.best_config

    return measure


def _time_on_the_cpu(call: Callable[[], None], quantiles: Any) -> list[float]:
    start = time.perf_counter()
    call()
    return [time.perf_counter() - start] * 3
