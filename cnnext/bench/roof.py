"""The machine's roof, measured: operations a second of a matrix product, and bytes a second of a copy."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from cnnext.testing.layers import Work

SIZES = (512, 1024, 2048)
COPIED = (2**20, 2**23, 2**26, 2**29)
"""Bytes read and written by a copy: a layer whose data stay in a cache has a higher roof than one that has not."""


def measure(dtypes: list[torch.dtype], device: torch.device, seconds: float = 2.0) -> dict[str, Any]:
    """Measure the roof.

    Args:
        dtypes: to multiply matrices of.
        device: where.
        seconds: for all of it, about.

    Returns:
        ``flops``: for each dtype the best rate, in operations a second; ``copy``: pairs of (bytes read and written,
        bytes a second).
    """
    share = seconds / (len(dtypes) * len(SIZES) + len(COPIED))
    flops = {}
    for dtype in dtypes:
        best = 0.0
        for size in SIZES:
            a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
            out = torch.empty_like(a)
            best = max(best, 2 * size**3 / _best(partial(torch.mm, a, b, out=out), device, share))
        flops[name_of(dtype)] = best
    copies = []
    for size in COPIED:
        source = torch.ones(size // 2, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        copies.append([size, size / _best(partial(target.copy_, source), device, share)])
    return {"flops": flops, "copy": copies}


def name_of(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def lower_bound(work: Work, dtype: torch.dtype, roof: dict[str, Any]) -> float:
    """Seconds that ``work`` takes at the least under a roof of :func:`measure`: by its operations or its bytes."""
    rate = next((rate for size, rate in roof["copy"] if size >= work.bytes), roof["copy"][-1][1])
    return max(work.flops / roof["flops"][name_of(dtype)], work.bytes / rate)


def _best(run: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """The shortest of the calls that fit into ``seconds``, at least three."""
    times: list[float] = []
    run()
    begin = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begin < seconds:
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        times.append(time.perf_counter() - start)
    return min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
