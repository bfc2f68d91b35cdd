"""Run the kernels of faults/ from a test."""

from __future__ import annotations

import ctypes
import functools
import re
from pathlib import Path

import numpy as np
import pytest

from emulator import build

FAULTS = Path(build.__file__).parent / "faults"


@functools.cache
def run_case(flavour: str = "traced", architecture: int = 80):
    """A function (case name, arrays) that launches kernels of tests/emulator/faults."""
    library = build.library("faults", [FAULTS / "cases.cu"], flavour, architecture=architecture)
    address = ctypes.cast(ctypes.CDLL(str(library)).run_case, ctypes.c_void_p).value
    return lambda name, *arrays: build.control(flavour).call(address, name, list(arrays))


def aligned(values) -> np.ndarray:
    """A copy aligned as cudaMalloc aligns, so that sector counts are those of a GPU."""
    values = np.ascontiguousarray(values)
    room = np.zeros(values.nbytes + 256, np.uint8)
    start = -room.ctypes.data % 256
    view = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    view[...] = values
    return view


def zeros(count: int, dtype=np.float32) -> np.ndarray:
    return aligned(np.zeros(count, dtype))


def marked_line(marker: str) -> tuple[str, int]:
    """File and line of the comment `// marker` in the kernels."""
    found = [
        (file.name, number)
        for file in sorted(FAULTS.glob("*.cuh"))
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if re.search(rf"// {marker}$", line)
    ]
    assert len(found) == 1, f"{marker}: {found}"
    return found[0]


@pytest.fixture(name="emulator")
def reset_emulator():
    """The control module, reset to its defaults before and after."""
    control = build.control()

    def reset():
        control.set_order("forward")
        control.set_tracing(True)
        control.set_sampled_blocks(0)
        control.reset_counters()

    reset()
    yield control
    reset()
