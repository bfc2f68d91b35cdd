"""The CUDA kernels of corr2d, emulated: each algorithm, the edges of its tiles, and their memory accesses."""

import ctypes

import emulated
import pytest
import torch
from emulator import build
from test_corr2d import torch_corr2d

import cnnext
import cnnext.functional as F
from cnnext import reference
from cnnext.backends import DTYPES
from cnnext.testing import assert_as_exact_as_torch, assert_gradients_as_exact_as_torch, make_tensor

pytestmark = pytest.mark.skipif(emulated.unavailable() is not None, reason=str(emulated.unavailable()))

MULTIPROCESSORS = 16


def explain(x, kernel, compute_bytes=4):
    """What the forward pass of a corr2d takes, and why it passes the rest over."""
    (h, w), (r, s) = x, kernel
    numbers = (h, w, r, s, h - r + 1, w - s + 1, 0, 0, 0, compute_bytes, MULTIPROCESSORS)
    text = ctypes.create_string_buffer(1000)
    emulated.choosers().cnnext_corr2d_explain((ctypes.c_int64 * 11)(*numbers), text, ctypes.c_int64(len(text)))
    return text.value.decode().splitlines()


@pytest.mark.parametrize(
    ("x", "kernel", "expected"),
    [
        ((6, 8), (1, 2), ["direct", "split_sum: a sum has fewer terms", "tiled: there are fewer than four tiles"]),
        ((90, 70), (5, 3), ["tiled", "split_sum: a sum has fewer terms"]),
        ((200, 200), (80, 80), ["direct", "split_sum: the outputs alone fill", "tiled: a tile takes more than 48 KiB"]),
        ((40, 300), (38, 298), ["split_sum of 5"]),
        ((4000, 4000), (3998, 3998), ["split_sum of 500"]),
    ],
)
def test_the_choice_and_why(x, kernel, expected):
    said = explain(x, kernel)
    assert len(said) == len(expected)
    assert all(line.startswith(start) for line, start in zip(said, expected, strict=True)), said


# Outputs of tiles of 32 by 32: as many, one less, one more; kernels of one tap, one row, one column.
SHAPES = [((70, 66), (7, 3)), ((64, 64), (1, 1)), ((63, 97), (1, 5)), ((100, 65), (6, 1)), ((65, 95), (2, 2))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_tiles_and_split_sums(shapes, dtype):
    x, kernel = make_tensor(shapes[0], dtype, seed=1), make_tensor(shapes[1], dtype, seed=2)
    with cnnext.backend("emulated"):
        assert_as_exact_as_torch(F.corr2d(x, kernel), reference.corr2d, torch_corr2d, x, kernel)
        assert_gradients_as_exact_as_torch(F.corr2d, reference.corr2d, torch_corr2d, x, kernel)


def test_an_infinite_tap_spoils_no_pixel_it_does_not_touch():
    grad, kernel = make_tensor((64, 64)), make_tensor((3, 3), seed=1)
    kernel[2, 2] = torch.inf
    ours = torch.ops.cnnext_emulated.corr2d_backward_input(grad, kernel)
    assert ours[:2].isfinite().all() and ours[:, :2].isfinite().all() and not ours[2:, 2:].isfinite().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_traced_kernels_are_sound_and_waste_little(dtype):
    emulated.load("traced")
    emulator = build.control("traced")
    emulator.set_order("random", seed=3)
    emulator.reset_counters()
    with cnnext.backend("traced"):
        x, kernel = make_tensor((96, 96), dtype, requires_grad=True), make_tensor((3, 3), dtype, requires_grad=True)
        F.corr2d(x, kernel).sum().backward()
    emulator.set_order("forward")
    tiled, split = (emulator.counters()[f"corr2d_{name}_kernel"] for name in ("tiled", "split_sum"))
    assert tiled["shared_load_wavefronts"] <= 1.1 * tiled["shared_load_ideal_wavefronts"]
    assert tiled["launches"] == 2 and split["launches"] == 1
