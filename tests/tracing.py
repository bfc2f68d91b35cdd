"""Run the CUDA kernels with every memory access checked and counted."""

import contextlib
from collections import Counter

import emulated
import pytest
import torch
from emulator import build

import cnnext

SECTORS_ALLOWED = 1.15
"""Sectors over ideal: 32-byte pieces of global memory that a request touches, over its bytes / 32."""


@pytest.fixture(name="traced")
def trace_accesses():
    """Every access of the kernels is checked and counted, the warps in a random order; gives the emulator."""
    emulated.load("traced")
    emulator = build.control("traced")
    emulator.set_order("random", seed=3)
    emulator.set_sampled_blocks(8)
    with cnnext.backend("traced"):
        yield emulator
    emulator.set_order("forward")
    emulator.set_sampled_blocks(0)


@contextlib.contextmanager
def sector_ratios(emulator):
    """Fills a dictionary: for each kernel launched inside, sectors over ideal of its loads and stores together."""

    def sectors(suffix):
        counters = emulator.counters().items()
        return Counter(
            {kernel: sum(v[f"global_{way}_{suffix}"] for way in ("load", "store")) for kernel, v in counters}
        )

    before, ideal_before, ratios = sectors("sectors"), sectors("ideal_sectors"), {}
    yield ratios
    ideal = sectors("ideal_sectors") - ideal_before
    ratios.update({kernel: count / ideal[kernel] for kernel, count in (sectors("sectors") - before).items()})


def shifted(x):
    """The same values, at an address that no vector fits."""
    buffer = torch.empty(x.numel() + 1, dtype=x.dtype)[1:]
    return buffer.as_strided(x.shape, x.stride()).copy_(x)
