"""The CUDA kernels of max_pool2d, emulated: every config, every edge of a tile, real layers, their memory accesses.

The op's own tests (tests/test_max_pool2d.py) run over the same kernels; here are the shapes that reach what theirs do
not, and the faults and figures that only the traced build reports.
"""

import emulated
import pytest
import torch
import torch.nn.functional as torch_functional
from pool_chooser import chosen, configs, divide_index, explain, uniform_problem
from tracing import SECTORS_ALLOWED, sector_ratios, shifted, trace_accesses  # noqa: F401

import cnnext
import cnnext.functional as F
from cnnext import reference
from cnnext.testing import assert_gradients_as_exact_as_torch, make_tensor

pytestmark = pytest.mark.skipif(emulated.unavailable() is not None, reason=str(emulated.unavailable()))

FLOAT, DOUBLE, HALF, BFLOAT16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
WINDOW_2, WINDOW_3 = {"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}


def check_max_pool(x, **arguments):
    ours = F.max_pool2d(x, **arguments, return_indices=True)
    theirs = torch_functional.max_pool2d(x, **arguments, return_indices=True)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    assert_gradients_as_exact_as_torch(F.max_pool2d, reference.max_pool2d, torch_functional.max_pool2d, x, **arguments)


# The config of the forward pass, that of the backward pass, and a case they are chosen for.
MAX_POOL_CASES = [
    ("channels", "channels", (2, 16, 9, 11), True, FLOAT, WINDOW_3),
    ("channels", "channels", (1, 8, 6, 7), True, BFLOAT16, WINDOW_2),
    ("staged_1024", "staged_1024", (2, 32, 64, 64), False, HALF, WINDOW_2),
    ("staged_256", "staged_1024", (1, 32, 48, 48), False, FLOAT, WINDOW_2),
    ("staged_64", "staged_256", (1, 32, 24, 22), False, FLOAT, WINDOW_3),
    ("staged_64", "staged_64", (1, 3, 31, 29), False, DOUBLE, {"kernel_size": 3, "dilation": 2}),
    ("direct", "direct", (1, 6, 9, 9), True, FLOAT, WINDOW_2),
    ("direct", "direct", (1, 1, 40, 40), False, FLOAT, {"kernel_size": 17, "stride": 3}),
    ("direct", "staged_64", (1, 1, 6, 2500), False, DOUBLE, {"kernel_size": 5}),
]


@pytest.mark.parametrize(("forward", "backward", "shape", "channels_last", "dtype", "arguments"), MAX_POOL_CASES)
def test_max_pool_configs(forward, backward, shape, channels_last, dtype, arguments):
    x = make_tensor(shape, dtype, channels_last=channels_last)
    assert chosen(uniform_problem(x, **arguments, backward=False, is_max=True)) == forward
    assert chosen(uniform_problem(x, **arguments, backward=True, is_max=True)) == backward
    with cnnext.backend("emulated"):
        check_max_pool(x, **arguments)


# A tile's edges: fewer than it holds, as many, one more, a prime number. `channels` and `direct` have tiles of 256
# threads, `staged_64` of 64 values or a row.
MAX_POOL_EDGES = [
    *(((1, 20, 6, 34), True), ((1, 16, 16, 16), True), ((1, 4, 2, 514), True), ((1, 4, 2, 262), True)),
    *(((1, 7, 2, 16), False), ((2, 4, 2, 16), False), ((3, 3, 2, 16), False), ((1, 17, 2, 16), False)),
    *(((2, 3, 4, 126), False), ((2, 3, 4, 128), False), ((2, 3, 4, 130), False), ((1, 2, 6, 134), False)),
    *(((2, 3, 5, 5), False), ((5, 7, 3, 3), False), ((2, 2, 4, 2), False), ((1, 1, 2, 2), False)),
    *(((1, 5, 6, 34), True), ((1, 1, 32, 32), True), ((1, 257, 2, 2), True), ((1, 3, 14, 13), True)),
]


@pytest.mark.parametrize("arguments", [WINDOW_2, WINDOW_3, {**WINDOW_2, "stride": 1}], ids=str)
@pytest.mark.parametrize(("shape", "channels_last"), MAX_POOL_EDGES)
def test_max_pool_at_the_edges_of_a_tile(shape, channels_last, arguments):
    x = make_tensor(shape, channels_last=channels_last)
    with cnnext.backend("emulated"):
        check_max_pool(x, **arguments)
        check_max_pool(shifted(x), **arguments)


# Activations of LeNet, VGG-11 and ResNet-18, with fewer channels and images.
MAX_POOL_LAYERS = {
    "LeNet 1": ((4, 6, 28, 28), WINDOW_2),
    "LeNet 2": ((4, 16, 10, 10), WINDOW_2),
    "VGG-11 1": ((1, 16, 224, 56), WINDOW_2),
    "VGG-11 5": ((1, 64, 14, 14), WINDOW_2),
    "ResNet-18 stem": ((1, 16, 112, 112), WINDOW_3),
    "ResNet-18 stem, 96": ((1, 16, 48, 48), WINDOW_3),
}


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=str)
@pytest.mark.parametrize(("shape", "arguments"), MAX_POOL_LAYERS.values(), ids=MAX_POOL_LAYERS)
def test_max_pool_layers_are_sound_and_waste_no_sectors(shape, arguments, dtype, channels_last, traced):
    x = make_tensor(shape, dtype, channels_last=channels_last)
    with sector_ratios(traced) as ratios:
        check_max_pool(x, **arguments)
    if channels_last and shape[1] * x.element_size() % 32:
        return  # a pixel's channels are no whole sectors, and every second pixel is skipped
    assert len(ratios) == 2
    assert max(ratios.values()) <= SECTORS_ALLOWED, ratios


@pytest.mark.parametrize("dtype", [DOUBLE, BFLOAT16], ids=str)
@pytest.mark.parametrize("arguments", [WINDOW_3, {"kernel_size": 17, "stride": 5}, {"kernel_size": 2, "dilation": 3}])
def test_traced_max_pool_reads_and_writes_what_it_may(arguments, dtype, traced):
    kernel, stride, pad, dil = (
        [arguments.get(name, default)] * 2
        for name, default in (("kernel_size", 0), ("stride", arguments["kernel_size"]), ("padding", 0), ("dilation", 1))
    )
    ops = torch.ops.cnnext_traced
    for shape, channels_last in (((2, 3, 33, 31), False), ((2, 16, 19, 18), True), ((2, 3, 19, 18), True)):
        x = make_tensor(shape, dtype, channels_last=channels_last)
        for variant in (x, shifted(x)):
            output, tap = ops.max_pool2d(variant, kernel, stride, pad, dil, False)
            grad = ops.max_pool2d_backward(shifted(output), shifted(tap), shape, kernel, stride, pad, dil)
            gathered = ops.max_pool2d_gather(variant, tap, kernel, stride, pad, dil)
            assert torch.equal(gathered, output)
            assert torch.equal(grad, ops.max_pool2d_backward(output, tap, shape, kernel, stride, pad, dil))


def test_the_chooser_says_why_it_passed_a_config_over():
    x = make_tensor((1, 6, 9, 9), channels_last=True)
    lines = explain(uniform_problem(x, 2, backward=False, is_max=True)).splitlines()[1:]
    assert [line.split(":")[0] for line in lines] == configs()
    assert lines[1] == "channels: the channels are no multiple of a 16-byte vector"
    assert lines[-1] == "direct: chosen"
    problem = uniform_problem(make_tensor((1, 1, 40, 40)), 17, backward=True, is_max=True)
    assert "staged_64: windows of more than 256 taps have taps of 32 bits" in explain(problem)
    problem = uniform_problem(shifted(make_tensor((1, 1, 40, 40))), 2, backward=True, is_max=True)
    assert "staged_64: a tensor does not start at a multiple of 16 bytes" in explain(problem)
    problem = uniform_problem(make_tensor((1, 1, 9, 4000)), 3, backward=False, is_max=True)
    assert "staged_64: the rows under a block take too much shared memory" in explain(problem)


def test_indices_are_divided_exactly():
    generator = torch.Generator().manual_seed(0)
    divisors = [1, 2, 3, 5, 7, 641, 2**16 - 1, 2**16 + 1, 2**26, 2**31 - 1, 2**31, 2**31 + 11, 2**40 + 1]
    for divisor in divisors:
        largest = [0, 1, 2**31 - 1, 2**31, 2**31 + 1, 2**45 - 1, divisor - 1, divisor, divisor + 1, 3 * divisor - 1]
        drawn = [int(torch.randint(2**bits, (1,), generator=generator)) for bits in (12, 20, 31, 31, 40, 50)]
        for n in (*largest, *drawn):
            assert divide_index(n, divisor) == n // divisor, (n, divisor)


@pytest.mark.parametrize("kernel", [3, 17], ids=["taps of a byte", "taps of 32 bits"])
@pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=str)
def test_what_lies_at_the_taps_is_the_output(dtype, kernel):
    x, window = make_tensor((2, 3, 40, 37), dtype), ([kernel] * 2, [2, 2], [1, 1], [1, 1])
    ops = torch.ops.cnnext_emulated
    output, tap = ops.max_pool2d(x, *window, False)
    assert torch.equal(ops.max_pool2d_gather(x, tap, *window), output)
