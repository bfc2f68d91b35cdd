"""Times of contenders that take turns, so that what else the machine does hits all alike.

On the CPU a turn is a first call that is not counted (it finds the other contenders' data in the caches) and then as
many as make a sample long enough for the clock; a long call needs no other before it. On a GPU every call is timed by
CUDA events, after a buffer larger than the L2 cache has been written, so that each finds its operands in memory; host
time is that of the call, which does not wait for the GPU. Medians and quartiles are reported, and
ratios of samples of the same round.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

import cnnext

LEAST_ROUNDS, MOST_ROUNDS = 5, 500
SAMPLE = 200e-6
"""Seconds that a sample on the CPU takes at least: the clock and the loop cost a thousandth of it."""
LONG = 5e-3
"""Seconds from which a call needs no other before it: filling the caches is a small part of it."""


class Spread(NamedTuple):
    """A median with its quartiles."""

    low: float
    median: float
    high: float


@dataclass
class Contender:
    """One who is timed.

    Attributes:
        run: does the work once and returns its results.
        backend: in force while it runs; None leaves that as it is.
    """

    run: Callable[[], Any]
    backend: str | None = None

    def active(self) -> Any:
        """A context in which :attr:`run` is to be called."""
        return nullcontext() if self.backend is None else cnnext.backend(self.backend)


@dataclass
class Measured:
    """Samples of one contender, in the order of the rounds.

    Attributes:
        seconds: of a call.
        host_seconds: on a GPU, how long the call kept the CPU.
        last: what the last timed call returned.
    """

    seconds: list[float] = field(default_factory=list)
    host_seconds: list[float] = field(default_factory=list)
    last: Any = None


def spread(values: Sequence[float]) -> Spread:
    """Quartiles; of a single value, that value three times."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def ratio(ours: Measured, peer: Measured) -> Spread:
    """The peer's time over ours, round by round: above one, ours is faster."""
    return spread([b / a for a, b in zip(ours.seconds, peer.seconds, strict=True)])


def take_turns(
    contenders: Mapping[str, Contender], device: torch.device, seconds: float, least: int = LEAST_ROUNDS
) -> dict[str, Measured]:
    """Time every contender, in rounds in which each has one turn, in an order that is drawn anew.

    Who ran before leaves its mark on the caches and the clock, and must not be the same one each time.

    Args:
        contenders: by name.
        device: where they work.
        seconds: about how long all of them together may take; ``least`` rounds are made in any case.
        least: fewest rounds.
    """
    turn = _GpuTurn(device) if device.type == "cuda" else _CpuTurn()
    taken = {name: Measured() for name in contenders}
    for name, one in contenders.items():
        with one.active():
            turn.warm_up(name, one.run)
    names, order = list(contenders), random.Random(0)
    start = time.perf_counter()
    for number in range(MOST_ROUNDS):
        if number >= least and time.perf_counter() - start > seconds:
            break
        order.shuffle(names)
        for name in names:
            with contenders[name].active():
                turn.take(name, contenders[name].run, taken[name])
    return taken


class _CpuTurn:
    def __init__(self) -> None:
        self._calls: dict[str, int] = {}
        self._long: set[str] = set()

    def warm_up(self, name: str, run: Callable[[], Any]) -> None:
        run()
        start = time.perf_counter()
        run()
        taken = time.perf_counter() - start
        self._calls[name] = max(1, round(SAMPLE / max(taken, 1e-7)))
        if taken > LONG:
            self._long.add(name)

    def take(self, name: str, run: Callable[[], Any], to: Measured) -> None:
        calls = self._calls[name]
        if name not in self._long:
            run()
        start = time.perf_counter()
        for _ in range(calls):
            to.last = run()
        to.seconds.append((time.perf_counter() - start) / calls)


class _GpuTurn:
    def __init__(self, device: torch.device) -> None:
        properties = torch.cuda.get_device_properties(device)
        self._device = device
        self._flush = torch.empty(4 * max(properties.L2_cache_size, 2**24), dtype=torch.uint8, device=device)

    def warm_up(self, name: str, run: Callable[[], Any]) -> None:
        for _ in range(3):  # lazy loading, algorithm search (cudnn.benchmark), Triton's compiler
            run()
        torch.cuda.synchronize(self._device)

    def take(self, name: str, run: Callable[[], Any], to: Measured) -> None:
        self._poison(to.last)
        to.last = None
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush.zero_()
        torch.cuda.synchronize(self._device)
        before = time.perf_counter()
        start.record()
        to.last = run()
        end.record()
        to.host_seconds.append(time.perf_counter() - before)
        end.synchronize()
        to.seconds.append(start.elapsed_time(end) / 1e3)

    @staticmethod
    def _poison(results: Any) -> None:
        """Fill what the caching allocator will hand out for the next results with NaN: unwritten memory shows."""
        for tensor in results if isinstance(results, tuple) else (results,):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                tensor.detach().fill_(torch.nan)


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """Most bytes that a call has at once from torch's allocator, above those that were taken before it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with (
        _without_stderr(),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile,
    ):
        run()
    now = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@contextmanager
def _without_stderr() -> Iterator[None]:
    """torch's profiler logs two lines of C++ for each use, which no setting of Python's reaches."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
