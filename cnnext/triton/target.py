"""What a kernel is launched on: the limits that decide which configs can run there."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch

from cnnext.triton.support import interpreting


@dataclass(frozen=True)
class Target:
    """A device, as far as the choice of a config depends on it.

    Attributes:
        name: of the device.
        capability: compute capability times ten (90 for 9.0); 0 for the interpreter.
        shared_bytes: shared memory that a block can have.
        processors: multiprocessors, which the grid should fill.
    """

    name: str
    capability: int
    shared_bytes: int
    processors: int

    @property
    def tensor_cores(self) -> bool:
        """Whether Triton compiles ``tl.dot`` of 16-bit operands to tensor cores (it has none for 7.5)."""
        return self.capability >= 80

    @property
    def sums_lie_apart(self) -> bool:
        """Whether operands come from shared memory alone (wgmma, tcgen05), which leaves registers to the sums."""
        return 90 <= self.capability < 120


INTERPRETER = Target("interpreter", 0, 1 << 40, 2)
TARGETS = {
    target.capability: target
    for target in (
        Target("sm_75", 75, 64 << 10, 40),
        Target("sm_80", 80, 163 << 10, 108),
        Target("sm_86", 86, 99 << 10, 82),
        Target("sm_89", 89, 99 << 10, 128),
        Target("sm_90", 90, 227 << 10, 132),
        Target("sm_100", 100, 227 << 10, 148),
        Target("sm_120", 120, 99 << 10, 170),
    )
}
"""Targets without a device, for compilation ahead of time. (Source: CUDA C++ Programming Guide, table of technical
specifications per compute capability; processors are those of one device of that kind.)"""


@functools.cache
def of_device(device: torch.device) -> Target:
    """The target that ``device`` is; where no GPU is in sight, the interpreter or a stand-in to trace with."""
    if interpreting():
        return INTERPRETER
    if device.type != "cuda" or not torch.cuda.is_available():
        return TARGETS[80]
    properties: Any = torch.cuda.get_device_properties(device)
    return Target(
        properties.name,
        10 * properties.major + properties.minor,
        properties.shared_memory_per_block_optin,
        properties.multi_processor_count,
    )
