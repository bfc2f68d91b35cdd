"""The fused convolutions of the CUDA kernels, emulated: every algorithm and tile with prologue, moments and residual.

That the convolutions themselves are exact is for tests/test_conv2d*.py: here a convolution that normalises what it
loads gives the bits that it gives for the normalised input in memory, and statistics are those of what it stored.
"""

import emulated
import pytest
import torch
from tracing import trace_accesses  # noqa: F401

from cnnext.testing import assert_as_exact_as_torch, make_tensor

pytestmark = pytest.mark.skipif(emulated.unavailable() is not None, reason=str(emulated.unavailable()))

EPS = 1e-5
FLOAT, DOUBLE, HALF, BFLOAT16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
ALGORITHMS = [
    *((f"implicit_gemm:{tile}", FLOAT) for tile in ("128x128", "128x64", "64x64", "64x32")),
    *(("implicit_gemm", dtype) for dtype in (DOUBLE, HALF, BFLOAT16)),
    *(("direct", dtype) for dtype in (FLOAT, DOUBLE, HALF, BFLOAT16)),
    *((f"winograd_{tile}", FLOAT) for tile in ("2x3", "4x3")),
    *((f"tensor_core:{tile}", HALF) for tile in ("128x128", "128x64", "64x64", "64x32")),
    ("tensor_core", BFLOAT16),
    ("tensor_core", FLOAT),
]
CASES = {
    "whole tiles": ((2, 16, 8, 8), 64, 3, {"padding": 1}),
    "odd": ((3, 13, 7, 9), 37, 3, {"padding": 1}),
    "groups": ((2, 24, 5, 6), 48, 3, {"padding": 1, "groups": 3}),
    "strided 1x1": ((1, 8, 9, 29), 16, 1, {"stride": 2}),
}
every_algorithm = pytest.mark.parametrize(("algorithm", "dtype"), ALGORITHMS)
both_layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])


def geometry_of(dtype, stride=1, padding=0, groups=1):
    """The last arguments of an op; float32 may be TF32 or Winograd's where the environment asks for them."""
    return (stride, stride), (padding, padding), (1, 1), groups, dtype == FLOAT, True


def make_case(case, dtype, channels_last):
    shape, out, kernel, arguments = case
    inner = shape[1] // arguments.get("groups", 1)
    x = make_tensor(shape, dtype, channels_last=channels_last, seed=1)
    weight = make_tensor((out, inner, kernel, kernel), dtype, channels_last=channels_last, seed=2)
    weight.mul_((inner * kernel * kernel) ** -0.5)
    return x, weight, make_tensor((out,), dtype, seed=3), geometry_of(dtype, **arguments)


def norm_of(channels, dtype):
    """mean, var, weight, bias and eps of a prologue."""
    wide = torch.promote_types(dtype, FLOAT)
    mean, var, weight, bias = (make_tensor((channels,), seed=seed).to(wide) for seed in (11, 12, 13, 14))
    return mean, var.abs() + 0.5, weight, bias, EPS


NOTHING = (None, None, None, None, 0.0)


def of_torch(y):
    return tuple(reversed(torch.var_mean(y.to(torch.promote_types(y.dtype, FLOAT)), (0, 2, 3), correction=0)))


def by_definition(y):
    mean = y.mean((0, 2, 3), keepdim=True)
    return mean.flatten(), (y - mean).square().mean((0, 2, 3))


def check_statistics(y, mean, var):
    assert_as_exact_as_torch((mean, var), by_definition, of_torch, y)


def check(ops, algorithm, case, dtype, channels_last, monkeypatch):
    monkeypatch.setenv("CNNEXT_CONV2D", algorithm)
    x, weight, bias, geometry = make_case(case, dtype, channels_last)
    norm = norm_of(x.shape[1], dtype)
    y, *moments = ops.conv2d_statistics(x, weight, bias, *NOTHING, *geometry)
    assert torch.equal(y, ops.conv2d(x, weight, bias, *geometry))
    check_statistics(y, *moments)
    activation = ops.batch_norm_relu(x, *norm[:4], None, True, EPS)
    y, *moments = ops.conv2d_statistics(x, weight, None, *norm, *geometry)
    assert torch.equal(y, ops.conv2d(activation, weight, None, *geometry))
    check_statistics(y, *moments)
    grad = torch.empty_like(y).copy_(make_tensor(tuple(y.shape), dtype, seed=5))
    gradients = ops.conv2d_backward_weight_prologue(grad, x, weight.shape, *norm, *geometry)
    expected = ops.conv2d_backward_weight(grad, activation, weight.shape, *geometry)
    assert all(map(torch.equal, gradients, expected))


@both_layouts
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@every_algorithm
def test_prologue_and_statistics(algorithm, dtype, case, channels_last, monkeypatch):
    if algorithm.startswith("winograd") and (case[2] != 3 or "groups" in case[3]):
        case = CASES["odd"]
    if algorithm == "direct" and case is not CASES["strided 1x1"]:  # a thread for each output: it has no tiles to fill
        case = ((1, 6, 5, 6), 9 if case is CASES["odd"] else 12, 3, case[3])
    check(torch.ops.cnnext_emulated, algorithm, case, dtype, channels_last, monkeypatch)


@both_layouts
@every_algorithm
def test_accesses(algorithm, dtype, channels_last, traced, monkeypatch):
    case = ((1, 4, 5, 3), 6, 3, {"padding": 1}) if algorithm == "direct" else ((2, 16, 6, 5), 40, 3, {"padding": 1})
    check(torch.ops.cnnext_traced, algorithm, case, dtype, channels_last, monkeypatch)


@both_layouts
@every_algorithm
def test_residual_and_relu(algorithm, dtype, channels_last, monkeypatch):
    monkeypatch.setenv("CNNEXT_CONV2D", algorithm)
    for case in (((1, 8, 8, 8), 32, 3, {"padding": 1}), ((1, 5, 7, 9), 37, 3, {"padding": 1})):
        x, weight, bias, geometry = make_case(case, dtype, channels_last)
        ops, wide = torch.ops.cnnext_emulated, torch.promote_types(dtype, FLOAT)
        convolved = ops.conv2d(x, weight, bias, *geometry)
        residual = torch.empty_like(convolved).copy_(make_tensor(tuple(convolved.shape), dtype, seed=6))
        exactly = ops.conv2d_residual_relu(x, weight, bias, None, True, *geometry)
        assert torch.equal(exactly, convolved.relu())
        y = ops.conv2d_residual_relu(x, weight, bias, residual, True, *geometry)
        assert y.stride() == convolved.stride()
        step = torch.finfo(dtype).eps * (convolved.to(wide).abs() + residual.to(wide).abs())
        assert ((y.to(wide) - (convolved.to(wide) + residual.to(wide)).relu()).abs() <= step).all()


@pytest.mark.parametrize("pixels", [2, 63, 64, 65, 127, 128, 129, 311])
@pytest.mark.parametrize(("algorithm", "dtype"), [("implicit_gemm:128x64", FLOAT), ("tensor_core:64x64", HALF)])
def test_blocks_with_pixels_of_any_number(algorithm, dtype, pixels, monkeypatch):
    case = ((1, 8, 1, pixels), 72, 1, {})
    check(torch.ops.cnnext_emulated, algorithm, case, dtype, True, monkeypatch)


@both_layouts
def test_a_mean_that_is_large_costs_no_digits_of_the_variance(channels_last, monkeypatch):
    monkeypatch.setenv("CNNEXT_CONV2D", "implicit_gemm")
    x, weight, _, geometry = make_case(CASES["odd"], FLOAT, channels_last)
    bias = torch.full((37,), 3e4)
    y, mean, var = torch.ops.cnnext_emulated.conv2d_statistics(x, weight, bias, *NOTHING, *geometry)
    check_statistics(y, mean, var)


def test_moments_of_many_blocks_are_folded(monkeypatch):
    monkeypatch.setenv("CNNEXT_CONV2D", "implicit_gemm:64x32")
    emulator = emulated.build.control("fast")
    before = emulator.counters().get("batch_norm_fold_moments_kernel", {"blocks": 0})["blocks"]
    x, weight, bias, geometry = make_case(((1, 1, 1, 33000), 40, 1, {}), FLOAT, True)
    check_statistics(*torch.ops.cnnext_emulated.conv2d_statistics(x, weight, bias, *NOTHING, *geometry))
    assert emulator.counters()["batch_norm_fold_moments_kernel"]["blocks"] == before + 2 * 9


@pytest.mark.parametrize(("algorithm", "dtype"), [("implicit_gemm:64x64", FLOAT), ("tensor_core", HALF)])
def test_the_same_bits_in_any_order_of_the_warps(algorithm, dtype, monkeypatch):
    monkeypatch.setenv("CNNEXT_CONV2D", algorithm)
    x, weight, bias, geometry = make_case(CASES["odd"], dtype, False)
    emulator, results = emulated.build.control("fast"), []
    for order in ("forward", "reversed", "random"):
        emulator.set_order(order)
        norm = norm_of(x.shape[1], dtype)
        results.append(torch.ops.cnnext_emulated.conv2d_statistics(x, weight, bias, *norm, *geometry))
    emulator.set_order("forward")
    assert all(map(torch.equal, results[0] * 2, results[1] + results[2]))
