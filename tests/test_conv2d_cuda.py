"""The CUDA kernels of conv2d, emulated: every tile and way to copy, every edge of a tile, real layers.

The op's own tests (tests/test_conv2d.py) run over the same kernels; here each is asked for by name, and reached at the
shapes where it could go wrong.
"""

import dataclasses
import re
from collections import Counter

import emulated
import pytest
import torch
import torch.nn.functional as torch_functional
from emulator import build

import cnnext
import cnnext.functional as F
from cnnext import reference
from cnnext.testing import assert_as_exact_as_torch, assert_gradients_as_exact_as_torch, cases, make_tensor

pytestmark = pytest.mark.skipif(emulated.unavailable() is not None, reason=str(emulated.unavailable()))

FLOAT32_TILES = {"128x128": (128, 128), "128x64": (128, 64), "64x64": (64, 64), "64x32": (64, 32)}
TILES = [
    *((name, torch.float32) for name in FLOAT32_TILES),
    ("64x64 float64", torch.float64),
    ("64x64x16", torch.float16),
    ("64x64x16", torch.bfloat16),
]
ALONG_K = ("64x32", "64x64 float64")
"""Tiles of few sums for a thread, which copy channels that fill no vector along gemm_k."""
GATHER, WEIGHT, REDUCE = (
    "conv2d_gather_implicit_gemm_kernel",
    "conv2d_backward_weight_implicit_gemm_kernel",
    "conv2d_backward_weight_reduce_kernel",
)


@pytest.fixture
def emulator():
    """The emulator's control module, with the emulated backend in force and its counters at zero."""
    control = build.control()
    control.reset_counters()
    with cnnext.backend("emulated"):
        yield control


def check(x, weight, bias, **arguments):
    """Forward and the three gradients, by the rule of accuracy."""
    output = F.conv2d(x, weight, bias, **arguments)
    assert_as_exact_as_torch(output, reference.conv2d, torch_functional.conv2d, x, weight, bias, **arguments)
    assert_gradients_as_exact_as_torch(
        F.conv2d, reference.conv2d, torch_functional.conv2d, x, weight, bias, **arguments
    )


def layer(n, c, h, w, k, kernel, dtype=torch.float32, channels_last=False, groups=1):
    case = cases.Conv2dCase("", (n, c, h, w), k, kernel, groups=groups)
    return case.tensors(dtype, channels_last)


@pytest.mark.parametrize(("tile", "dtype"), TILES, ids=str)
def test_every_tile_runs_with_every_way_to_copy(tile, dtype, emulator, monkeypatch):
    monkeypatch.setenv("CNNEXT_CONV2D", f"implicit_gemm:{tile}")
    for c, channels_last in ((16, False), (16, True), (15, True)):
        check(*layer(2, c, 7, 6, 40, 3, dtype, channels_last), padding=1)
    ways = {f"{GATHER} {tile} {way}" for way in ("scalar scalar", "vector_k vector_k", "vector_k vector_extent")}
    if tile in ALONG_K:
        ways.add(f"{GATHER} {tile} scalar_k scalar")
    ways |= {f"{WEIGHT} {tile} {way}" for way in ("scalar", "scalar_k", "vector_extent")}
    assert set(emulator.counters()) == {*ways, REDUCE}


def test_no_kernel_is_left_out():
    # What the test above, and the op's own tests over all dtypes and both layouts, run; by the library's symbols. Those
    # with a prologue, forward and for the weight, are run by test_conv_bn_relu_cuda_conv.py.
    symbol = rb"\0_ZN6cnnext(?:13implicit_gemm|6direct)?\d+(conv2d_\w+?_kernel)(I[^.\0]*)"
    kernels = set(re.findall(symbol, emulated.library("fast").read_bytes()))
    variants = Counter(name.decode() for name, _ in kernels)
    assert variants == {
        GATHER: (3 + 2) * len(TILES) + 2 * len(ALONG_K),
        WEIGHT: (3 + 3) * len(TILES),
        "conv2d_gather_direct_nchw_kernel": 4,
        "conv2d_gather_direct_nhwc_kernel": 4,
        "conv2d_backward_weight_direct_kernel": 2 * 4,
        REDUCE: 4,
    }


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("edge", ["less", "equal", "more", "prime"])
@pytest.mark.parametrize("tile", FLOAT32_TILES)
def test_edges_of_the_tiles(tile, edge, channels_last, emulator, monkeypatch):
    monkeypatch.setenv("CNNEXT_CONV2D", f"implicit_gemm:{tile}")
    tile_m, tile_n = FLOAT32_TILES[tile]
    # Pixels against tile_m (forward, input gradient), channels against tile_n, and, in the weight gradient, the
    # channels against tile_m and gemm_n; gemm_k against two chains of 32.
    rows, k, c = {
        "less": (tile_m // 8 - 1, tile_n - 1, 63),
        "equal": (tile_m // 8, tile_n, 64),
        "more": (tile_m // 8 + 1, tile_n + 1, 65),
        "prime": (17, 97, 67),
    }[edge]
    width = 7 if edge == "prime" else 8
    check(*layer(1, c, rows, width, k, 1, channels_last=channels_last))


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("algorithm", ["direct", "implicit_gemm"])
@pytest.mark.parametrize("stride", [1, 2, 3, (3, 1)], ids=str)
@pytest.mark.parametrize("dilation", [1, 2, 3], ids=str)
def test_phases_of_strided_gradients(stride, dilation, algorithm, channels_last, emulator, monkeypatch):
    monkeypatch.setenv("CNNEXT_CONV2D", algorithm)
    x, weight, bias = layer(2, 8, 13, 11, 12, 3, channels_last=channels_last, groups=2)
    check(x, weight, bias, stride=stride, dilation=dilation, padding=2, groups=2)


def test_an_input_gradient_without_a_tap_is_zero(emulator, monkeypatch):
    for algorithm in ("direct", "implicit_gemm"):
        monkeypatch.setenv("CNNEXT_CONV2D", algorithm)
        weight = make_tensor((16, 8, 1, 1))
        grad = make_tensor((1, 16, 3, 3), seed=1)
        geometry = ([2, 2], [0, 0], [1, 1], 1, False, False)
        ours = torch.ops.cnnext_emulated.conv2d_backward_input(grad, weight, [1, 8, 6, 6], *geometry)
        assert torch.count_nonzero(ours[:, :, 1::2]) == torch.count_nonzero(ours[:, :, :, 1::2]) == 0
        assert torch.count_nonzero(ours[:, :, ::2, ::2]) == ours[:, :, ::2, ::2].numel()


@pytest.mark.parametrize("size", [(3, 23, 5), (64, 3, 3), (200, 1, 2), (2, 2, 300)], ids=str)
def test_the_weight_gradient_is_put_in_order_whatever_its_row(size, emulator, monkeypatch):
    """More taps than a tile holds, a row of two tiles, and tiles of two rows and of 64."""
    group_c, kernel, k = size
    monkeypatch.setenv("CNNEXT_CONV2D", "implicit_gemm")
    check(*layer(1, group_c, kernel + 1, kernel, k, kernel, channels_last=True))


def test_unaligned_tensors_are_copied_value_by_value(emulator):
    x, weight, _ = layer(1, 16, 8, 8, 32, 3, channels_last=True)
    buffer = torch.empty(x.numel() + 1)[1:]
    shifted = buffer.as_strided(x.shape, x.stride()).copy_(x)
    check(shifted, weight, None, padding=1)
    assert any(name.endswith("scalar_k scalar") for name in emulator.counters())


def cut(case, largest=14):
    """The same layer on one image of at most 14 × 14 pixels and with at most 256 channels."""
    n, c, h, w = case.input
    return dataclasses.replace(
        case, input=(min(n, 1), min(c, 256), min(h, largest), min(w, largest)), out=min(case.out, 256)
    )


LAYERS = [
    *cases.LENET,
    *(cases.VGG11[i] for i in (1, 2, 5)),
    *(cases.RESNET18[i] for i in (1, 3, 4, 5)),
    *cases.RESNEXT[1:3],
]


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("case", [cut(case) for case in LAYERS], ids=str)
def test_layers_of_real_networks(case, channels_last, emulator):
    check(*case.tensors(torch.float32, channels_last), **case.arguments)


@pytest.mark.parametrize("order", ["forward", "reversed", "random"])
def test_same_bits_whatever_the_order_of_the_warps(order, emulator):
    x, weight, bias = layer(3, 24, 19, 17, 40, 3, channels_last=True)
    results = []
    for turn in ("forward", order):
        emulator.set_order(turn, seed=5)
        leaves = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]
        output = F.conv2d(*leaves, padding=1)
        results.append((output, *torch.autograd.grad(output.square().sum(), leaves)))
    emulator.set_order("forward")
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
