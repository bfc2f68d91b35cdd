"""The fused convolutions on the CPU, by both algorithms and on shapes that reach each of their tiles and copies."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as torch_functional
from test_conv2d_direct import CASES

from cnnext import reference
from cnnext.testing import assert_as_exact_as_torch, make_tensor
from cnnext.testing.cases import Conv2dCase

EPS = 1e-5
SHAPES = [
    *CASES,
    Conv2dCase("more channels than a tile", (3, 37, 6, 7), 41, 3, padding=1),
    Conv2dCase("small images", (13, 20, 3, 3), 34, 3, padding=1),
    Conv2dCase("one pixel", (40, 18, 1, 1), 5, 1),
    Conv2dCase("a block of pixels and one more", (1, 16, 113, 1), 16, 1),
]
both_layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
both_algorithms = pytest.mark.parametrize("algorithm", ["direct", "implicit_gemm"])


@pytest.fixture(autouse=True)
def chosen(request, monkeypatch):
    if "algorithm" in request.fixturenames:
        monkeypatch.setenv("CNNEXT_CONV2D", request.getfixturevalue("algorithm"))


def make_case(case, dtype, channels_last):
    """Input, weight and bias of the convolution; mean, var, weight and bias of the norm before it."""
    c = case.input[1]
    norm = [make_tensor((c,), seed=seed) for seed in (10, 11, 12, 13)]
    norm[1] = norm[1].abs() + 0.5
    if dtype == torch.float64:
        norm = [t.double() for t in norm]
    return [*case.tensors(dtype, channels_last), *norm]


def geometry_of(case):
    pairs = [v if isinstance(v, tuple) else (v, v) for v in (case.stride, case.padding, case.dilation)]
    return (*pairs, case.groups, False, False)


def unfused(convolution, case, of_output):
    """The norm, the ReLU and the convolution one by one, and ``of_output`` of that."""

    def run(x, weight, bias, mean, var, norm_weight, norm_bias):
        activation = torch_functional.batch_norm(x, mean, var, norm_weight, norm_bias, eps=EPS).relu()
        return of_output(activation, weight, bias, convolution(activation, weight, bias, **case.arguments))

    return run


def the_output(activation, weight, bias, output):
    return output


@both_algorithms
@both_layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_prologue_and_statistics(case, dtype, channels_last, algorithm):
    tensors = make_case(case, dtype, channels_last)
    results = torch.ops.cnnext.conv2d_statistics(*tensors, EPS, *geometry_of(case))
    exact, peer = (unfused(f, case, the_output) for f in (reference.conv2d, torch_functional.conv2d))
    assert_as_exact_as_torch(results[0], exact, peer, *tensors)
    var, mean = torch.var_mean(results[0].double(), (0, 2, 3), correction=0)  # of the output that there is
    torch.testing.assert_close(results[1:], (mean.float(), var.float()))


@both_algorithms
@both_layouts
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_weight_gradient_with_a_prologue(case, channels_last, algorithm):
    tensors = make_case(case, torch.float64, channels_last)
    grad = make_tensor(tuple(torch_functional.conv2d(*tensors[:3], **case.arguments).shape), torch.float64, seed=5)

    def gradients(activation, weight, bias, output):
        return torch.autograd.grad(output, (weight, bias), grad)

    leaves = [t.requires_grad_(i in (1, 2)) for i, t in enumerate(tensors)]
    expected = unfused(torch_functional.conv2d, case, gradients)(*leaves)
    x, weight, _, *norm = tensors
    size = list(weight.shape)
    results = torch.ops.cnnext.conv2d_backward_weight_prologue(grad, x, size, *norm, EPS, *geometry_of(case))
    torch.testing.assert_close(results, expected)


@both_algorithms
@both_layouts
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_residual_and_relu(case, relu, channels_last, algorithm):
    x, weight, bias = case.tensors(torch.float32, channels_last)
    plain = torch.ops.cnnext.conv2d(x, weight, bias, *geometry_of(case))
    residual = make_tensor(tuple(plain.shape), channels_last=channels_last, seed=5)
    output = torch.ops.cnnext.conv2d_residual_relu(x, weight, bias, residual, relu, *geometry_of(case))
    assert torch.equal(output, (plain + residual).relu() if relu else plain + residual)
    assert output.stride() == plain.stride()


@both_algorithms
@both_layouts
@pytest.mark.parametrize("shift", [1e4, -300.0], ids=str)
def test_statistics_of_values_far_from_zero(shift, channels_last, algorithm):
    x, weight = make_tensor((4, 5, 12, 11), channels_last=channels_last), make_tensor((9, 5, 3, 3), seed=1)
    weight.mul_(1e-3)
    bias = torch.full((9,), shift)
    nothing = (None, None, None, None, 0.0)
    output, mean, var = torch.ops.cnnext.conv2d_statistics(
        x, weight, bias, *nothing, (1, 1), (1, 1), (1, 1), 1, False, False
    )
    expected = torch.var_mean(output.double(), (0, 2, 3), correction=0)
    torch.testing.assert_close((var.double(), mean.double()), expected, rtol=1e-6, atol=0)


@both_algorithms
@both_layouts
@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[12], CASES[16], SHAPES[-3]], ids=str)
def test_the_same_bits_for_every_number_of_threads(case, channels_last, algorithm):
    n, c, h, w = case.input
    size = (40, 44) if n < 13 else (h, w)
    tensors = make_case(case, torch.float32, channels_last)
    tensors[0] = make_tensor((16 * n, c, *size), channels_last=channels_last, seed=1)
    geometry = geometry_of(case)

    def run():
        output, *statistics = torch.ops.cnnext.conv2d_statistics(*tensors, EPS, *geometry)
        norm, size = tensors[3:], list(tensors[1].shape)
        gradients = torch.ops.cnnext.conv2d_backward_weight_prologue(output, tensors[0], size, *norm, EPS, *geometry)
        activation = torch.ops.cnnext.batch_norm_relu(output, *statistics, None, None, output, True, EPS)
        backward = torch.ops.cnnext.batch_norm_relu_backward(
            output, output, *statistics, None, None, activation, True, EPS
        )
        return [output, *statistics, *gradients, activation, *backward]

    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(run())
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_with_narrower_vectors(isa):
    command = [sys.executable, "-m", "pytest", "-q", "-k", "not narrower", __file__]
    done = subprocess.run(command, env={**os.environ, "CNNEXT_ISA": isa}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
