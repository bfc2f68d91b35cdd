"""The CUDA kernels of the average pools, emulated: as tests/test_max_pool2d_cuda.py for max_pool2d.

The ops' own tests are tests/test_avg_pool2d.py and tests/test_adaptive_avg_pool2d.py.
"""

import emulated
import pytest
import torch
import torch.nn.functional as torch_functional
from pool_chooser import adaptive_problem, chosen, configs, explain, uniform_problem
from tracing import SECTORS_ALLOWED, sector_ratios, shifted, trace_accesses  # noqa: F401

import cnnext
import cnnext.functional as F
from cnnext import reference
from cnnext.testing import assert_as_exact_as_torch, assert_gradients_as_exact_as_torch, make_tensor

pytestmark = pytest.mark.skipif(emulated.unavailable() is not None, reason=str(emulated.unavailable()))

FLOAT, DOUBLE, HALF, BFLOAT16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
WINDOW_2, WINDOW_3 = {"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}
INSIDE_ONLY = {**WINDOW_3, "count_include_pad": False}


def check(x, **arguments):
    """Output and gradient, of adaptive_avg_pool2d where ``arguments`` name an output_size."""
    name = "adaptive_avg_pool2d" if "output_size" in arguments else "avg_pool2d"
    ours, exact, theirs = (getattr(module, name) for module in (F, reference, torch_functional))
    assert_as_exact_as_torch(ours(x, **arguments), exact, theirs, x, **arguments)
    assert_gradients_as_exact_as_torch(ours, exact, theirs, x, **arguments)


def problem_of(x, backward, **arguments):
    if "output_size" in arguments:
        return adaptive_problem(x, **arguments, backward=backward)
    windows = {
        name: value for name, value in arguments.items() if name not in ("count_include_pad", "divisor_override")
    }
    return uniform_problem(x, **windows, backward=backward, is_max=False)


# The config of the forward pass, that of the backward pass, and a case they are chosen for.
CASES = [
    ("channels", "channels", (2, 16, 9, 11), True, FLOAT, WINDOW_3),
    ("channels", "channels", (1, 8, 6, 7), True, BFLOAT16, INSIDE_ONLY),
    ("channels", "channels", (1, 16, 9, 10), True, DOUBLE, {"output_size": (4, 3)}),
    ("staged_1024", "staged_1024", (2, 32, 64, 64), False, HALF, WINDOW_2),
    ("staged_256", "staged_1024", (1, 32, 48, 48), False, FLOAT, WINDOW_2),
    ("staged_64", "staged_256", (1, 32, 24, 22), False, FLOAT, INSIDE_ONLY),
    ("staged_64", "staged_64", (1, 70, 7, 7), False, FLOAT, {"output_size": 1}),
    ("staged_64", "staged_64", (3, 5, 13, 11), False, DOUBLE, {"output_size": (5, 4)}),
    ("slices", "channels", (2, 40, 7, 7), True, FLOAT, {"output_size": 1}),
    ("slices", "channels", (1, 520, 6, 7), True, HALF, {"output_size": (1, 1)}),
    ("slices", "channels", (1, 4, 20, 17), True, DOUBLE, {"kernel_size": 6, "stride": 3, "padding": 2}),
    ("warp", "staged_256", (2, 3, 61, 67), False, FLOAT, {"output_size": 1}),
    ("warp", "staged_64", (1, 1, 150, 40), False, BFLOAT16, {"output_size": (2, 1)}),
    ("warp", "staged_256", (2, 3, 61, 67), False, HALF, {"kernel_size": (40, 9), "stride": (20, 7)}),
    ("direct", "direct", (1, 6, 9, 9), True, FLOAT, INSIDE_ONLY),
    ("direct", "direct", (1, 6, 9, 9), True, HALF, {"output_size": (4, 5)}),
    ("direct", "staged_64", (1, 1, 6, 2500), False, DOUBLE, {"kernel_size": 5}),
]


@pytest.mark.parametrize(("forward", "backward", "shape", "channels_last", "dtype", "arguments"), CASES)
def test_configs(forward, backward, shape, channels_last, dtype, arguments):
    x = make_tensor(shape, dtype, channels_last=channels_last)
    assert chosen(problem_of(x, False, **arguments)) == forward
    assert chosen(problem_of(x, True, **arguments)) == backward
    with cnnext.backend("emulated"):
        check(x, **arguments)


def test_every_config_is_among_the_cases():
    assert {case[0] for case in CASES} == set(configs())
    assert {case[1] for case in CASES} == {name for name in configs() if name not in ("slices", "warp")}


# Fewer than a tile holds, as many, one more, a prime number: 256 threads of `channels` and `direct`, 64 values or a row
# of `staged_64`.
EDGES = [
    *(((1, 20, 6, 34), True), ((1, 16, 16, 16), True), ((1, 4, 2, 514), True)),
    *(((1, 7, 2, 16), False), ((2, 4, 2, 16), False), ((3, 3, 2, 16), False), ((1, 17, 2, 16), False)),
    *(((2, 3, 4, 126), False), ((2, 3, 4, 130), False), ((5, 7, 3, 3), False), ((1, 1, 2, 2), False)),
    *(((1, 5, 6, 34), True), ((1, 1, 32, 32), True), ((1, 257, 2, 2), True)),
]


@pytest.mark.parametrize("arguments", [WINDOW_2, INSIDE_ONLY, {"output_size": (2, 3)}], ids=str)
@pytest.mark.parametrize(("shape", "channels_last"), EDGES)
def test_edges_of_a_tile(shape, channels_last, arguments):
    x = make_tensor(shape, channels_last=channels_last)
    with cnnext.backend("emulated"):
        check(x, **arguments)
        check(shifted(x), **arguments)


# 8 warps a block; up to 32 vectors of channels a block, 8 to 256 slices of a window.
@pytest.mark.parametrize("channels", [4, 8, 124, 128, 132, 148])
@pytest.mark.parametrize("side", [6, 16, 17])
def test_edges_of_a_slice(side, channels):
    x = make_tensor((2, channels, side, side), channels_last=True)
    assert chosen(adaptive_problem(x, 1, backward=False)) == "slices"
    with cnnext.backend("emulated"):
        check(x, output_size=1)


@pytest.mark.parametrize("planes", [1, 7, 8, 9, 17])
@pytest.mark.parametrize("shape", [(64, 64), (65, 64), (127, 31)])
def test_edges_of_a_warp(planes, shape):
    x = make_tensor((planes, 1, *shape))
    assert chosen(adaptive_problem(x, 1, backward=False)) == "warp"
    with cnnext.backend("emulated"):
        check(x, output_size=1)


# Activations of LeNet (whose pools are averages), and before ResNet-18's classifier.
LAYERS = {
    "LeNet 1": ((4, 6, 28, 28), WINDOW_2),
    "LeNet 2": ((4, 16, 10, 10), WINDOW_2),
    "ResNet-18 head": ((2, 512, 7, 7), {"output_size": 1}),
    "ResNet-18 head, 96": ((4, 128, 3, 3), {"output_size": 1}),
    "AlexNet head": ((1, 32, 13, 13), {"output_size": 6}),
}


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=str)
@pytest.mark.parametrize(("shape", "arguments"), LAYERS.values(), ids=LAYERS)
def test_layers_are_sound_and_waste_no_sectors(shape, arguments, dtype, channels_last, traced):
    x = make_tensor(shape, dtype, channels_last=channels_last)
    with sector_ratios(traced) as ratios:
        check(x, **arguments)
    if channels_last and shape[1] * x.element_size() % 32:
        return  # a pixel's channels are no whole sectors, and every second pixel is skipped
    assert len(ratios) == 2
    assert max(ratios.values()) <= SECTORS_ALLOWED, ratios


@pytest.mark.parametrize("dtype", [DOUBLE, BFLOAT16], ids=str)
@pytest.mark.parametrize("arguments", [INSIDE_ONLY, {"output_size": 1}, {"output_size": (7, 4)}], ids=str)
def test_traced_kernels_read_and_write_what_they_may(arguments, dtype, traced):
    for shape, channels_last in (((2, 3, 33, 31), False), ((2, 3, 65, 63), False), ((2, 16, 19, 18), True)):
        x = make_tensor(shape, dtype, channels_last=channels_last)
        check(x, **arguments)
        check(shifted(x), **arguments)


def test_the_chooser_says_why_it_passed_a_config_over():
    image, small = make_tensor((1, 8, 70, 70), channels_last=True), make_tensor((1, 8, 60, 60))
    assert "slices: only the forward pass of an average" in explain(adaptive_problem(image, 1, backward=True))
    assert "slices: windows of few pixels" in explain(adaptive_problem(image, 20, backward=False))
    assert "slices: a pixel has one channel (NCHW)" in explain(adaptive_problem(small, 1, backward=False))
    assert "staged_64: the rows under a block" in explain(adaptive_problem(small, 1, backward=False))
    assert "staged_64: a block would have a few" in explain(adaptive_problem(small[:, :1], 1, backward=False))
    assert "staged_256: too few blocks" in explain(adaptive_problem(small, 20, backward=False))
    many = uniform_problem(torch.empty(1).expand(4000, 1, 100, 100), 8, 1, backward=False, is_max=False)
    many.aligned = False
    assert "warp: there are windows enough for one thread each" in explain(many)
