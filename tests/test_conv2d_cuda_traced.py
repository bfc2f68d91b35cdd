"""The CUDA kernels of conv2d with every access checked and counted: no fault, few sectors and wavefronts to spare."""

import dataclasses

import emulated
import pytest
import torch
from emulator import build

import cnnext
import cnnext.functional as F
from cnnext.testing import cases

pytestmark = pytest.mark.skipif(emulated.unavailable() is not None, reason=str(emulated.unavailable()))

SECTORS_ALLOWED, WAVEFRONTS_ALLOWED = 1.15, 1.1


@pytest.fixture
def traced():
    """The traced backend in force, warps in a random order; gives the emulator with its counters at zero."""
    emulated.load("traced")
    control = build.control("traced")
    control.set_order("random", seed=3)
    control.set_sampled_blocks(8)
    control.reset_counters()
    with cnnext.backend("traced"):
        yield control
    control.set_order("forward")
    control.set_sampled_blocks(0)


def run(case, dtype=torch.float32, channels_last=False):
    leaves = [t.requires_grad_() for t in case.tensors(dtype, channels_last) if t is not None]
    output = F.conv2d(*leaves, **case.arguments)
    torch.autograd.grad(output, leaves, torch.ones_like(output))


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("case", cases.CONV2D_EDGES, ids=str)
def test_edges_are_sound(case, channels_last, traced):
    run(case, torch.float32, channels_last)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("algorithm", ["direct", "implicit_gemm"])
def test_other_dtypes_are_sound(algorithm, dtype, channels_last, traced, monkeypatch):
    monkeypatch.setenv("CNNEXT_CONV2D", algorithm)
    run(cases.Conv2dCase("", (1, 16, 9, 7), 24, 3, stride=2, padding=1), dtype, channels_last)


def ratio(counters, kind, ways=("load", "store")):
    space, unit = kind
    taken, ideal = (sum(counters[f"{space}_{way}_{name}"] for way in ways) for name in (unit, f"ideal_{unit}"))
    return taken / ideal


GLOBAL, SHARED = ("global", "sectors"), ("shared", "wavefronts")
LAYERS = [
    dataclasses.replace(cases.RESNET18[3], input=(1, 64, 28, 28)),
    dataclasses.replace(cases.RESNET18[5], input=(1, 64, 14, 14)),
    dataclasses.replace(cases.RESNET18[4], input=(1, 64, 14, 14)),
    dataclasses.replace(cases.RESNEXT[2], input=(1, 64, 14, 14)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_channels_last_wastes_no_sectors_and_no_wavefronts(case, dtype, traced, monkeypatch):
    monkeypatch.setenv("CNNEXT_CONV2D", "implicit_gemm")
    run(case, dtype, channels_last=True)
    for kernel, counters in traced.counters().items():
        if "reduce" not in kernel:  # it reads sums and writes the weight's other layout: no activations
            assert ratio(counters, GLOBAL) <= SECTORS_ALLOWED, kernel
        if "implicit_gemm" in kernel:
            assert ratio(counters, SHARED) <= WAVEFRONTS_ALLOWED, kernel


@pytest.mark.parametrize("tile", ["128x128", "128x64", "64x64", "64x32"])
def test_main_loop_wastes_no_wavefronts(tile, traced, monkeypatch):
    monkeypatch.setenv("CNNEXT_CONV2D", f"implicit_gemm:{tile}")
    for channels_last in (False, True):
        run(cases.Conv2dCase("", (1, 64, 12, 12), 64, 3, padding=1), torch.float32, channels_last)
    for kernel, counters in traced.counters().items():
        if "implicit_gemm" in kernel:
            assert ratio(counters, SHARED) <= WAVEFRONTS_ALLOWED, kernel


def test_channels_that_fill_no_vector_are_read_along_them(traced):
    """Six channels: a tile's row of eight values begins anywhere in a sector, and so has parts of two."""
    run(cases.Conv2dCase("LeNet 2", (1, 6, 14, 14), 16, 5), torch.float32, channels_last=True)
    gemms = {kernel: counters for kernel, counters in traced.counters().items() if "implicit_gemm" in kernel}
    assert len(gemms) == 2  # forward, and the weight's gradient
    for kernel, counters in gemms.items():
        assert ratio(counters, GLOBAL, ("load",)) <= 1.4, kernel  # with lanes along the pixels 3 to 5
        assert ratio(counters, SHARED) <= WAVEFRONTS_ALLOWED, kernel


def test_depthwise_wastes_no_sectors(traced):
    run(cases.Conv2dCase("", (1, 64, 14, 14), 64, 3, padding=1, groups=64), torch.float32, channels_last=True)
    for kernel, counters in traced.counters().items():
        assert ratio(counters, GLOBAL) <= SECTORS_ALLOWED, kernel
