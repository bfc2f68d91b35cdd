"""Winograd's algorithm, emulated: both tile sizes, layouts and passes, on compute capability 8.0 and 7.5."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
from pathlib import Path

import emulated
import numpy as np
import pytest
import torch
from conv2d_tensor_core import PASSES, functions, memory, sizes
from emulator import build
from torch._subclasses.fake_tensor import FakeTensorMode

import cnnext
from cnnext.ops.precision import float32_shortcuts
from cnnext.testing import assert_as_exact_as_winograd, cases, make_tensor
from cnnext.testing.cases import Conv2dCase

pytestmark = pytest.mark.skipif(emulated.unavailable() is not None, reason=f"not emulated: {emulated.unavailable()}")

ROOT = Path(__file__).resolve().parent.parent
KERNELS = {"2x3": ("weight", "fused"), "2x3 in parts": ("weight", "input", "gemm", "output")}
KERNELS["4x3"] = KERNELS["2x3 in parts"]


@functools.cache
def library(architecture: int) -> ctypes.CDLL:
    """Every access is traced on 8.0; 7.5 has no cp.async, and is asked for results."""
    sources = [ROOT / "tests/conv2d_winograd_entry.cu", ROOT / "csrc/cuda/conv2d_winograd.cu"]
    flavour = "traced" if architecture >= 80 else "fast"
    return ctypes.CDLL(str(build.library("conv2d_winograd", sources, flavour, architecture=architecture)))


def call(function: str, *arrays: np.ndarray, architecture: int = 80) -> None:
    address = ctypes.cast(getattr(library(architecture), function), ctypes.c_void_p).value
    build.control().call(address, "", list(arrays))


def description(
    case: Conv2dCase,
    which: str,
    variant: str,
    channels_last: bool,
    weight_last: bool,
    allow: bool = True,
    chunk_bytes: int = 1 << 24,
) -> np.ndarray:
    """The Call of conv2d_winograd_entry.cu. ``variant``: one of KERNELS."""
    bias = which == "forward" and case.bias
    header = [
        PASSES.index(which),
        channels_last,
        weight_last,
        bias,
        allow,
        int(variant[0]),
        chunk_bytes,
        variant == "2x3",
    ]
    return np.array([*header, *sizes(case)], np.int64)


def check(
    case: Conv2dCase,
    which: str,
    variant: str,
    channels_last: bool,
    weight_last: bool | None = None,
    architecture: int = 80,
    chunk_bytes: int = 1 << 24,
) -> torch.Tensor:
    """Run a pass, and hold its result to the rule for Winograd's algorithm."""
    weight_last = channels_last if weight_last is None else weight_last
    x, weight, bias = case.tensors(torch.float32, channels_last)
    weight = weight.contiguous(memory_format=torch.channels_last if weight_last else torch.contiguous_format)
    n, _, _, _, k, _, _, p, q, *_ = sizes(case)
    grad = make_tensor((n, k, p, q), channels_last=channels_last, seed=4)
    source, result = (x, grad) if which == "forward" else (grad, x)
    result = torch.full_like(result, torch.nan)
    about = description(case, which, variant, channels_last, weight_last, True, chunk_bytes)
    no_bias = torch.zeros(1)
    arrays = (source, weight, no_bias if bias is None else bias, result)
    call("run_winograd", about, *map(memory, arrays), architecture=architecture)
    exact, peer = functions(case, which, (x.shape, weight.shape))
    assert_as_exact_as_winograd(result, exact, peer, source, weight, bias)
    return result


EDGES = [
    Conv2dCase("one channel", (1, 1, 4, 3), 1, 3, padding=1),
    Conv2dCase("no padding", (1, 3, 8, 8), 5, 3),
    Conv2dCase("one tile of each kind", (1, 16, 4, 4), 64, 3, padding=1),
    Conv2dCase("exactly one block of tiles", (2, 32, 32, 32), 64, 3, padding=1),
    Conv2dCase("one row and one channel more", (1, 17, 33, 16), 65, 3, padding=1),
    Conv2dCase("one less", (1, 15, 15, 31), 63, 3, padding=1, bias=False),
    Conv2dCase("prime sizes", (3, 13, 7, 11), 23, 3, padding=1),
    Conv2dCase("padding of 2", (1, 4, 5, 6), 8, 3, padding=2),
    Conv2dCase("padding wider than the kernel", (1, 4, 5, 6), 8, 3, padding=(5, 3)),
    Conv2dCase("padding of one side", (1, 8, 6, 9), 8, 3, padding=(0, 1)),
]


@pytest.mark.parametrize("variant", KERNELS)
@pytest.mark.parametrize("which", PASSES[:2])
@pytest.mark.parametrize("case", EDGES, ids=str)
def test_edges(case, which, variant):
    for channels_last in (True, False):
        check(case, which, variant, channels_last)


@pytest.mark.parametrize("variant", KERNELS)
def test_layout_of_the_weight_is_its_own(variant):
    for which in PASSES[:2]:
        for channels_last in (True, False):
            check(EDGES[6], which, variant, channels_last, not channels_last)


@pytest.mark.parametrize("case", EDGES[:7], ids=str)
def test_edges_on_turing(case):
    for variant in ("2x3", "4x3"):  # where shared memory is short, 2x3 goes in parts too
        check(case, "forward", variant, False, architecture=75)


LAYERS = [
    dataclasses.replace(next(case for case in cases.CONV2D_CHAPTERS if case.name == name), input=(1, c, h, h), out=k)
    for name, c, h, k in [("VGG-11 2", 64, 14, 64), ("VGG-11 7", 128, 6, 64), ("ResNet-18 64", 64, 12, 64)]
]


@pytest.mark.parametrize("variant", KERNELS)
@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_layers_of_the_chapters(case, variant):
    for which in PASSES[:2]:
        for channels_last in (True, False):
            check(case, which, variant, channels_last)


@pytest.mark.parametrize("variant", ["2x3 in parts", "4x3"])
def test_chunks_cover_every_tile(variant):
    """More tiles than a workspace holds: the last chunk is smaller."""
    case = Conv2dCase("chunks", (3, 8, 9 * int(variant[0]), 9 * int(variant[0])), 8, 3, padding=1)
    control = build.control()
    control.reset_counters()
    check(case, "forward", variant, True, chunk_bytes=1)
    assert control.counters()[f"conv2d_winograd_{variant[:3]}_gemm_kernel"]["launches"] == 2


@pytest.mark.parametrize("variant", KERNELS)
def test_memory_is_used_as_the_hardware_likes(variant):
    """Sectors and wavefronts of a channels_last layer, over their ideals."""
    case = Conv2dCase("ResNet-18 64, cut", (1, 64, 16, 16), 64, 3, padding=1)
    control = build.control()
    control.reset_counters()
    control.set_sampled_blocks(0)
    check(case, "forward", variant, True)
    counters = control.counters()
    assert set(counters) == {f"conv2d_winograd_{variant[:3]}_{kernel}_kernel" for kernel in KERNELS[variant]}
    for kernel in KERNELS[variant][1:]:
        counted = counters[f"conv2d_winograd_{variant[:3]}_{kernel}_kernel"]
        for what, unit, limit in [
            ("global_load", "sectors", 1.15),
            ("global_store", "sectors", 1.15),
            ("shared_load", "wavefronts", 1.1),
            ("shared_store", "wavefronts", 1.1),
        ]:
            ideal = counted[f"{what}_ideal_{unit}"]
            used = counted[f"{what}_{unit}"]
            assert used <= limit * ideal, f"{kernel}: {what} {used} {unit} of {ideal}"


@pytest.mark.parametrize("variant", ["2x3", "4x3"])
def test_same_bits_for_any_order_of_warps(variant):
    control, results = build.control(), []
    try:
        for order in ("forward", "reversed", "random"):
            control.set_order(order)
            results.append(check(EDGES[6], "forward", variant, True))
    finally:
        control.set_order("forward")
    assert all(torch.equal(results[0], other) for other in results[1:])


def explain(case: Conv2dCase, variant: str, which: str = "forward", allow: bool = True) -> str:
    text = np.zeros(1024, np.uint8)
    call("explain_winograd", description(case, which, variant, True, True, allow), text)
    return text.tobytes().rstrip(b"\0").decode()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kernel": (3, 5)}, "refused: the kernel is not 3x3"),
        ({"stride": 2}, "refused: it needs stride 1"),
        ({"dilation": 2}, "refused: it needs stride 1 and dilation 1"),
        ({"groups": 2}, "refused: it has no groups"),
        ({"input": (1, 16, 28, 28)}, "slower: it has few channels"),
        ({"input": (1, 64, 3, 3), "padding": 0}, "slower: most of its tiles reach over the edge"),
        ({}, "tiles 49"),
    ],
)
def test_choice_says_why(changes, reason):
    case = dataclasses.replace(Conv2dCase("plain", (1, 64, 28, 28), 64, 3, padding=1), **changes)
    assert explain(case, "4x3").startswith(reason)


def test_it_must_be_allowed_and_has_no_weight_gradient():
    case = Conv2dCase("plain", (1, 64, 28, 28), 64, 3, padding=1)
    assert explain(case, "4x3", allow=False) == "refused: Winograd's algorithm is not allowed"
    assert explain(case, "4x3", "backward_weight") == "refused: it has no weight gradient"


@pytest.mark.parametrize("algorithm", ["winograd_2x3", "winograd_4x3"])
def test_the_op_takes_it_where_it_is_allowed(algorithm, monkeypatch):
    monkeypatch.setenv("CNNEXT_CONV2D", algorithm)
    case = Conv2dCase("op", (1, 8, 9, 9), 16, 3, padding=1)
    x, weight, bias = case.tensors()
    geometry = ((1, 1), (1, 1), (1, 1), 1)
    grad = make_tensor((1, 16, 9, 9), seed=4)
    control = build.control()
    for allowed in (True, False):
        control.reset_counters()
        y = torch.ops.cnnext_emulated.conv2d(x, weight, bias, *geometry, False, allowed)
        grad_x = torch.ops.cnnext_emulated.conv2d_backward_input(grad, weight, x.shape, *geometry, False, allowed)
        assert (f"conv2d_{algorithm}_weight_kernel" in control.counters()) == allowed
        exact, peer = functions(case, "forward", (x.shape, weight.shape))
        assert_as_exact_as_winograd(y, exact, peer, x, weight, bias)
        exact, peer = functions(case, "backward_input", (x.shape, weight.shape))
        assert_as_exact_as_winograd(grad_x, exact, peer, grad, weight, None)


def test_switch():
    with FakeTensorMode():
        x, half = torch.empty(1, device="cuda"), torch.empty(1, device="cuda", dtype=torch.float16)
    assert float32_shortcuts(x)[1]
    with cnnext.allow_winograd(False) as switch:
        assert repr(switch) == "cnnext.allow_winograd(False)"
        assert not float32_shortcuts(x)[1]
    assert float32_shortcuts(x)[1]
    assert not float32_shortcuts(half)[1]
    with pytest.raises(TypeError, match="`allowed` must be a bool, but got 'no'"):
        cnnext.allow_winograd("no")
