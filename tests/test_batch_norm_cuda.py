"""The CUDA kernels of batch_norm, emulated: every config, every edge of a chunk, real layers, their accesses.

The op's own tests (tests/test_batch_norm.py) run over the same kernels; here are the shapes that reach what theirs do
not, and the faults and figures that only the traced build reports.
"""

import ctypes

import emulated
import pytest
import torch
import torch.nn.functional as torch_functional
from pool_chooser import MULTIPROCESSORS
from tracing import SECTORS_ALLOWED, sector_ratios, shifted, trace_accesses  # noqa: F401

import cnnext
import cnnext.functional as F
from cnnext import reference
from cnnext.backends import DTYPES
from cnnext.testing import assert_as_exact_as_torch, assert_gradients_as_exact_as_torch, make_tensor

pytestmark = pytest.mark.skipif(emulated.unavailable() is not None, reason=str(emulated.unavailable()))

FLOAT, DOUBLE, HALF, BFLOAT16 = torch.float32, torch.float64, torch.float16, torch.bfloat16


class Problem(ctypes.Structure):
    """What csrc/cuda/batch_norm_config.cu chooses a config for."""

    names = ("n", "c", "hw", "channels_last", "value_bytes", "aligned", "multiprocessors")
    _fields_ = [(name, ctypes.c_int64) for name in names]


def explain(x):
    """The chooser's answer: the problem, then a line for each config passed over, with the reason, then the chosen."""
    n, c, h, w = x.shape
    last, aligned = not x.is_contiguous(), x.data_ptr() % 16 == 0
    problem = Problem(n, c, h * w, last, x.element_size(), aligned, MULTIPROCESSORS)
    text = ctypes.create_string_buffer(4096)
    emulated.choosers().cnnext_explain_batch_norm(ctypes.byref(problem), text, len(text))
    return text.value.decode()


def chosen(x):
    """The name of the config that runs, and what is said of how it cuts the work."""
    name, _, cut = explain(x).splitlines()[-1].partition(": ")
    return name, cut


def check(x, training=True):
    """Output, and gradients of input, weight and bias."""
    c = x.shape[1]
    statistics = [make_tensor((c,), x.dtype, seed=2), make_tensor((c,), x.dtype, seed=3).abs() + 0.5]
    parameters = [make_tensor((c,), x.dtype, seed=seed) for seed in (4, 5)]

    def of(function):
        def run(x, weight, bias):
            copies = [s.double() if x.dtype == torch.float64 else s.clone() for s in statistics]
            return function(x, *copies, weight, bias, training)

        return run

    functions = [of(function) for function in (F.batch_norm, reference.batch_norm, torch_functional.batch_norm)]
    assert_as_exact_as_torch(functions[0](x, *parameters), *functions[1:], x, *parameters)
    assert_gradients_as_exact_as_torch(*functions, x, *parameters)


CASES = [
    ("channels_vectors", (3, 24, 5, 7), True, FLOAT),
    ("channels_vectors", (2, 264, 4, 4), True, HALF),
    ("channels_vectors", (16, 8, 40, 40), True, BFLOAT16),
    ("channels_vectors", (9, 6, 1, 1), False, DOUBLE),
    ("channels", (3, 23, 5, 7), True, FLOAT),
    ("channels", (2, 70, 9, 3), True, HALF),
    ("warp_vectors", (3, 13, 8, 6), False, FLOAT),
    ("warp_vectors", (3, 13, 4, 4), False, BFLOAT16),
    ("warp", (8, 37, 3, 3), False, FLOAT),
    ("warp", (3, 9, 5, 5), False, DOUBLE),
    ("block_vectors", (3, 3, 48, 48), False, FLOAT),
    ("block_vectors", (2, 2, 80, 70), False, HALF),
    ("block_vectors", (5, 1, 12, 12), False, FLOAT),
    ("block", (3, 3, 49, 47), False, FLOAT),
    ("block", (5, 1, 9, 11), False, BFLOAT16),
]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("config", "shape", "channels_last", "dtype"), CASES)
def test_configs(config, shape, channels_last, dtype, training):
    x = make_tensor(shape, dtype, channels_last=channels_last)
    assert chosen(x)[0] == config
    with cnnext.backend("emulated"):
        check(x, training)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("shape", [(3, 16, 4, 4), (3, 7, 3, 3)], ids=["vectors", "values"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_goes_every_way(dtype, shape, channels_last):
    x = make_tensor(shape, dtype, channels_last=channels_last)
    assert ("vectors" in chosen(x)[0]) == (shape[1] == 16)
    with cnnext.backend("emulated"):
        check(x)
        check(x, training=False)


def test_every_config_is_among_the_cases():
    names = emulated.choosers().cnnext_batch_norm_configs
    names.restype = ctypes.c_char_p
    assert {case[0] for case in CASES} == set(names().decode().split())


# Chunks: fewer values than one holds, as many, one more, a prime number, one left over for a last chunk.
# channels_vectors with 32 channels in float32: 8 threads wide, so 32 slices and 128 values at the least.
# block_vectors in float32: 4096 values at the least; block: 1024.
EDGES = [
    *(((1, 32, 1, values), True) for values in (2, 31, 32, 33, 127, 128, 129, 257, 1031)),
    *(((2, channels, 3, 3), True) for channels in (4, 124, 128, 132, 516, 31, 32, 33)),
    *(((1, 2, 1, values), False) for values in (4092, 4096, 4100, 8196, 12284)),
    *(((1, 3, 1, values), False) for values in (2049, 3071, 3073, 4099)),
    *(((2, channels, 3, 3), False) for channels in (2, 7, 8, 9, 17)),
    *(((values, 2, 1, 1), False) for values in (2, 127, 1025)),
]


@pytest.mark.parametrize(("shape", "channels_last"), EDGES)
def test_edges_of_a_chunk(shape, channels_last):
    x = make_tensor(shape, channels_last=channels_last)
    with cnnext.backend("emulated"):
        check(x)
        check(shifted(x))


def test_chunks_are_merged_whatever_their_number():
    cuts = [chosen(make_tensor((1, 32, 1, values), channels_last=True))[1] for values in (127, 129, 16384)]
    assert [", 1 chunks" in cuts[0], ", 2 chunks" in cuts[1], ", 64 chunks" in cuts[2]] == [True] * 3, cuts


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("kind", ["outlier first", "steps", "drift"])
def test_chunks_whose_means_are_far_apart(kind, channels_last):
    x = make_tensor((6, 8, 32, 32), channels_last=channels_last)
    if kind == "outlier first":
        x[0, :, 0, 0] = 1e5
    elif kind == "steps":
        x[3:] += 1e4
        x[0, :, :2] -= 1e4
    else:
        x += torch.arange(6.0 * 32 * 32).view(6, 1, 32, 32)
    with cnnext.backend("emulated"):
        check(x)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_the_same_bits_in_any_order_of_the_warps(channels_last):
    x, weight = make_tensor((4, 40, 24, 24), channels_last=channels_last), make_tensor((40,), seed=1)
    emulator, ops, results = emulated.build.control("fast"), torch.ops.cnnext_emulated, []
    for order in ("forward", "reversed", "random"):
        emulator.set_order(order)
        forward = ops.batch_norm(x, weight, weight, None, None, True, 1e-5)
        results.append((*forward, *ops.batch_norm_backward(x, x, weight, *forward[1:], True, 1e-5)))
    emulator.set_order("forward")
    assert all(torch.equal(*pair) for other in results[1:] for pair in zip(results[0], other, strict=True))


# Layers of ResNet-18, with fewer channels and images.
LAYERS = {
    "ResNet-18 stem": (1, 16, 112, 112),
    "ResNet-18 64": (1, 64, 28, 28),
    "ResNet-18 256, 96": (4, 64, 6, 6),
    "ResNet-18 512": (2, 512, 7, 7),
}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=str)
@pytest.mark.parametrize("shape", LAYERS.values(), ids=LAYERS)
def test_layers_are_sound_and_waste_no_sectors(shape, dtype, channels_last, training, traced):
    x = make_tensor(shape, dtype, channels_last=channels_last)
    with sector_ratios(traced) as ratios:
        check(x, training)
    passes = {name: ratio for name, ratio in ratios.items() if name.split("_")[-2] in ("moments", "sums", "apply")}
    passes.pop("batch_norm_merge_moments_kernel", None)
    assert len(passes) == (4 if training else 3)
    if "vectors" in chosen(x)[0]:
        assert max(passes.values()) <= SECTORS_ALLOWED, ratios


@pytest.mark.parametrize("dtype", [DOUBLE, BFLOAT16], ids=str)
def test_traced_kernels_read_and_write_what_they_may(dtype, traced):
    for shape, channels_last in (((3, 7, 9, 11), False), ((2, 3, 49, 47), False), ((3, 16, 9, 8), True)):
        x = make_tensor(shape, dtype, channels_last=channels_last)
        check(x)
        check(shifted(x), training=False)
    running = make_tensor((20,), dtype).abs()[::2]
    mean, var = make_tensor((10,), seed=1), make_tensor((10,), seed=2)
    torch.ops.cnnext_traced.batch_norm_update_(running, running.clone(), mean, var, 4, 0.1)


def test_the_chooser_says_why_it_passed_a_config_over():
    lines = explain(make_tensor((3, 23, 5, 7), channels_last=True)).splitlines()[1:]
    assert lines[0] == "channels_vectors: the channels are no multiple of a 16-byte vector"
    assert lines[1].startswith("channels: chosen, 1 groups of channels, 4 chunks of ")
    answer = explain(shifted(make_tensor((3, 3, 40, 40))))
    for words in (
        "channels: the pixels of a channel lie side by side (NCHW)",
        "warp_vectors: a channel has too many values for a warp",
        "block_vectors: a tensor does not start at a multiple of 16 bytes",
        "block: chosen",
    ):
        assert words in answer
    assert "block_vectors: the pixels of an image" in explain(make_tensor((1, 3, 49, 47)))
