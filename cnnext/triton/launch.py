"""Launching a kernel: the choice of a config, the next one where it fails, and a record of launches for compilers."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch.library import wrap_triton
from triton.errors import TritonError

from cnnext.triton import target, tuning
from cnnext.triton.target import Target

Hints = tuple[int, ...]


def block(size: int, most: int, least: int = 1) -> int:
    """The power of two that holds ``size``, between ``least`` and ``most``: a side of a block for the interpreter."""
    return max(least, min(triton.next_power_of_2(max(size, 1)), most))


@dataclass(eq=False)
class Kernel:
    """A jitted function and the configs that it may run with.

    Args:
        function: decorated with ``triton.jit``.
        configs: all that may be tried.
        fits: ``fits(config, target, kind, hints)`` says whether a target's limits allow a config for a kind of
            numbers: the name of a dtype, or "tf32".
        cost: ``cost(config, target, hints)``: the config with the least is the heuristic's choice.
        interpreted: ``interpreted(kind, hints)``: the values of a config for the interpreter, which pays per operation
            more than per element: blocks as large as what there is to do, or as memory holds.
        repeatable: whether running it twice changes nothing; else it is not measured.
    """

    function: Any
    configs: tuple[triton.Config, ...]
    fits: Callable[[triton.Config, Target, str, Hints], bool] = lambda config, target, kind, hints: True
    cost: Callable[[triton.Config, Target, Hints], float] = lambda config, target, hints: 0.0
    interpreted: Callable[[str, Hints], dict[str, int]] | None = None
    repeatable: bool = True
    _ranked: dict[Any, list[triton.Config]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the function."""
        return self.function.__name__

    def ranked(self, on: Target, kind: str, hints: Hints) -> list[triton.Config]:
        """The configs that fit, in the order in which to try them; at least one."""
        key = (on, kind, hints)
        if key not in self._ranked:
            fitting = [config for config in self.configs if self.fits(config, on, kind, hints)]
            assert fitting, f"no config of {self.name} for {kind} fits {on}"
            self._ranked[key] = sorted(fitting, key=lambda config: self.cost(config, on, hints))
            if on is target.INTERPRETER and self.interpreted is not None:
                self._ranked[key].insert(0, triton.Config(self.interpreted(kind, hints)))
        return self._ranked[key]


@dataclass
class Launch:
    """A launch that was recorded instead of made: what a compiler needs to know."""

    kernel: Kernel
    arguments: dict[str, Any]
    constants: dict[str, Any]
    configs: list[triton.Config]


_recorded: list[Launch] | None = None
_recording_for: Target | None = None


@contextlib.contextmanager
def recording(on: Target) -> Iterator[list[Launch]]:
    """Record the launches of the block, with the configs in the order for target ``on``, instead of making them."""
    global _recorded, _recording_for
    _recorded, _recording_for = [], on
    try:
        yield _recorded
    finally:
        _recorded = _recording_for = None


def target_of(tensor: torch.Tensor) -> Target:
    """The target that kernels over ``tensor`` are launched on."""
    return _recording_for or target.of_device(tensor.device)


def launch(
    kernel: Kernel,
    like: torch.Tensor,
    grid: Callable[[dict[str, int]], tuple[int, ...]],
    arguments: dict[str, Any],
    constants: dict[str, Any],
    hints: Hints = (),
) -> None:
    """Run ``kernel`` on the device of ``like``.

    Args:
        kernel: what to run.
        like: a tensor on the device, of the dtype of the operands.
        grid: number of programs, from the config's values.
        arguments: tensors (or None) and sizes, by name.
        constants: compile-time constants besides those of the config, by name.
        hints: sizes on which the choice of the config depends.

    Raises:
        RuntimeError: no config can be compiled and run; the text names kernel, configs and target.
    """
    on = target_of(like)
    kind = "tf32" if constants.get("PRECISION") == "tf32" else str(like.dtype).removeprefix("torch.")
    configs = kernel.ranked(on, kind, hints)
    if _recorded is not None:
        _recorded.append(Launch(kernel, arguments, constants, configs))
        return
    if type(like) not in (torch.Tensor, torch.nn.Parameter):
        _trace(kernel, configs[0], grid, {**arguments, **constants})
        return
    with _on_device(like):
        if len(configs) > 1 and kernel.repeatable and tuning.wanted(like):
            configs = _tuned(kernel, configs, on, kind, grid, arguments, constants, hints)
        _run_first_that_can(kernel, configs, on, grid, {**arguments, **constants})


def _trace(
    kernel: Kernel, config: triton.Config, grid: Callable[[dict[str, int]], tuple[int, ...]], values: dict[str, Any]
) -> None:
    """Put the launch into the graph that is being made; it takes a config's warps and stages from an autotuner only."""
    run: Any = wrap_triton(triton.autotune(configs=[config], key=[])(kernel.function))
    run[grid(config.kwargs)](**values)


def _on_device(tensor: torch.Tensor) -> Any:
    if tensor.device.type != "cuda" or not torch.cuda.is_available():
        return contextlib.nullcontext()
    return torch.cuda.device(tensor.device)


def _tuned(
    kernel: Kernel,
    configs: list[triton.Config],
    on: Target,
    kind: str,
    grid: Callable[[dict[str, int]], tuple[int, ...]],
    arguments: dict[str, Any],
    constants: dict[str, Any],
    hints: Hints,
) -> list[triton.Config]:
    """``configs`` with the one in front that is the fastest for such sizes, of those that can be compiled."""

    def measure(candidates: list[triton.Config]) -> triton.Config:
        values = {**arguments, **constants}
        usable = [config for config in candidates if _compiles(kernel, config, on, grid, values)]
        return tuning.measure_by(kernel.function, grid, values, on)(usable) if usable else candidates[0]

    return tuning.best_first(configs, on, tuning.bucket(kernel.name, kind, constants, hints), measure)


def _compiles(
    kernel: Kernel,
    config: triton.Config,
    on: Target,
    grid: Callable[[dict[str, int]], tuple[int, ...]],
    values: dict[str, Any],
) -> bool:
    key = (kernel.name, str(config), on)
    if key not in _failed:
        try:
            kernel.function.run(**values, **config.all_kwargs(), grid=grid(config.kwargs), warmup=True)
        except (TritonError, RuntimeError) as error:
            _fail(key, config, error)
    return key not in _failed


def _fail(key: tuple[str, str, Target], config: triton.Config, error: Exception) -> str:
    """Note that a config cannot run on a target, and say so."""
    name, _, on = key
    _failed[key] = f"{name} cannot run with [{config}] on {on.name} ({on.capability}): {error}"
    warnings.warn(f"{_failed[key]}; the next config is tried", RuntimeWarning, stacklevel=4)
    return _failed[key]


_proved: set[tuple[str, str, Target]] = set()
_failed: dict[tuple[str, str, Target], str] = {}


def _run_first_that_can(
    kernel: Kernel,
    configs: list[triton.Config],
    on: Target,
    grid: Callable[[dict[str, int]], tuple[int, ...]],
    values: dict[str, Any],
) -> None:
    reasons = []
    for config in configs:
        key = (kernel.name, str(config), on)
        if key in _failed:
            reasons.append(_failed[key])
            continue
        try:
            kernel.function[grid(config.kwargs)](**values, **config.all_kwargs())
        except (TritonError, RuntimeError) as error:
            if on is target.INTERPRETER or key in _proved:
                raise
            reasons.append(_fail(key, config, error))
        else:
            _proved.add(key)
            return
    raise RuntimeError("\n".join(reasons))
