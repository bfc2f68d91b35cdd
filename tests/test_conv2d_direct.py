"""The direct algorithm of conv2d on the CPU, on shapes that reach each of its tiles, whatever is chosen elsewhere."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as torch_functional

import cnnext
import cnnext.functional as F
from cnnext import reference
from cnnext.testing import assert_as_exact_as_torch, assert_gradients_as_exact_as_torch, make_tensor
from cnnext.testing.cases import Conv2dCase

CASES = [
    Conv2dCase("lanes over pixels, blocks of 4 and 3", (2, 1, 13, 21), 7, 3, padding=1),
    Conv2dCase("blocks of 6 and 1, rows end inside a vector", (1, 2, 9, 33), 13, (2, 3), padding=(1, 0)),
    Conv2dCase("lanes over channels, two vectors and one", (1, 3, 9, 19), 48, 3, padding=1),
    Conv2dCase("channels beyond the last vector", (2, 4, 7, 10), 37, 5, padding=2),
    Conv2dCase("sums in several segments", (2, 24, 6, 9), 18, 3, padding=1),
    Conv2dCase("several bands of rows", (1, 3, 61, 70), 4, 3, padding=1),
    Conv2dCase("stem", (1, 3, 30, 31), 32, 7, stride=2, padding=3),
    Conv2dCase("stride 3 and dilation 2", (1, 2, 23, 29), 17, 3, stride=3, padding=2, dilation=2),
    Conv2dCase("stride and dilation with a common factor", (1, 2, 17, 25), 20, (3, 4), stride=2, dilation=(1, 4)),
    Conv2dCase("stride beyond the kernel", (1, 2, 14, 15), 5, 2, stride=(3, 4)),
    Conv2dCase("kernel longer than a run of taps", (1, 2, 12, 30), 16, (3, 17), padding=(0, 3)),
    Conv2dCase("padding beyond the kernel", (1, 2, 5, 6), 3, 2, padding=4),
    Conv2dCase("depthwise", (2, 21, 11, 12), 21, 3, padding=1, groups=21),
    Conv2dCase("depthwise, stride 2, dilation 2", (1, 19, 15, 18), 19, 3, 2, 2, 2, groups=19),
    Conv2dCase("depthwise with a multiplier", (1, 6, 9, 10), 18, 3, padding=1, groups=6),
    Conv2dCase("groups", (2, 12, 9, 17), 20, 3, padding=1, groups=4),
    Conv2dCase("lanes over images, the last vector not full", (31, 4, 7, 6), 7, 3, padding=1),
    Conv2dCase(
        "lanes over images, groups and dilation", (9, 6, 5, 5), 10, (2, 3), padding=(1, 2), dilation=2, groups=2
    ),
    Conv2dCase("lanes over images, padding beyond the kernel", (19, 2, 5, 6), 3, 2, padding=3),
    Conv2dCase("lanes over images, sums in several segments", (16, 16, 10, 10), 6, 5, padding=4),
]


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    monkeypatch.setenv("CNNEXT_CONV2D", "direct")
    with cnnext.backend("cpu"):
        yield


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case, dtype, channels_last):
    tensors = case.tensors(dtype, channels_last)
    output = F.conv2d(*tensors, **case.arguments)
    assert_as_exact_as_torch(output, reference.conv2d, torch_functional.conv2d, *tensors, **case.arguments)
    assert_gradients_as_exact_as_torch(F.conv2d, reference.conv2d, torch_functional.conv2d, *tensors, **case.arguments)


@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_matches_reference_with_narrower_vectors(isa):
    tests = "test_matches_reference and (float32 or bfloat16) and not narrower"
    command = [sys.executable, "-m", "pytest", "-q", "-k", tests, __file__]
    done = subprocess.run(command, env={**os.environ, "CNNEXT_ISA": isa}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("out", [3, 16])
def test_a_value_reaches_only_the_taps_that_see_it(out, channels_last):
    # The last column meets the last tap alone; a tile loads it beside the others, past the end of their rows.
    x = make_tensor((2, 1, 9, 20), torch.float32, channels_last=channels_last, seed=1)
    x[..., -1] = float("inf")
    grad = make_tensor((2, out, 9, 18), torch.float32, channels_last=channels_last, seed=2)
    geometry = ([1, 1], [0, 0], [1, 1], 1, False, False)
    grad_weight, _ = torch.ops.cnnext.conv2d_backward_weight(grad, x, [out, 1, 1, 3], *geometry)
    assert grad_weight[..., :2].isfinite().all()
    assert not grad_weight[..., 2].isfinite().any()


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[12], CASES[16]], ids=str)
def test_gives_the_same_bits_for_every_number_of_threads(case, channels_last):
    n, c, h, w = case.input
    size = (40, 44) if n < 16 else (h, w)
    x = make_tensor((16 * n, c, *size), torch.float32, channels_last=channels_last, seed=1)
    weight = case.tensors(torch.float32)[1].requires_grad_()
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            output = F.conv2d(x.requires_grad_(), weight, **case.arguments)
            results.append((output, *torch.autograd.grad(output.square().sum(), (x, weight))))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_passes_a_shape_on_that_it_refuses():
    case = Conv2dCase("more products than it sums", (1, 300, 4, 4), 2, 3, padding=1)
    tensors = case.tensors()
    output = F.conv2d(*tensors, **case.arguments)
    assert_as_exact_as_torch(output, reference.conv2d, torch_functional.conv2d, *tensors, **case.arguments)
