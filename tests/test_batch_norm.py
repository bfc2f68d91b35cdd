"""batch_norm against its definition and torch's own: outputs, running statistics, gradients of every order."""

import pytest
import torch
import torch.nn.functional as torch_functional
from ours import own_backends

import cnnext.functional as F
from cnnext import reference
from cnnext.backends import DTYPES
from cnnext.testing import (
    assert_as_exact_as_torch,
    assert_gradients_as_exact_as_torch,
    make_tensor,
)

OP = "batch_norm"
SHAPES = {
    "prime sizes": (3, 13, 17, 19),
    "one channel": (5, 1, 9, 11),
    "one image": (1, 18, 7, 5),
    "one row": (2, 33, 1, 23),
    "one pixel": (7, 35, 1, 1),
    "two values": (2, 5, 1, 1),
    "small images by columns": (9, 21, 3, 3),
    "few small images": (2, 21, 3, 3),
    "a strip and a half of channels": (2, 97, 6, 5),
    "images larger than a block": (2, 3, 70, 61),
    "chunks of a channel": (4, 2, 90, 61),
    "chunks of columns": (40, 300, 2, 2),
    "last stage of ResNet-18": (8, 512, 3, 3),
}
LAYOUTS = {"nchw": False, "channels_last": True}
both_modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
both_layouts = pytest.mark.parametrize("channels_last", LAYOUTS.values(), ids=LAYOUTS)


def make_parameters(channels, dtype=torch.float32):
    """running_mean, running_var, weight, bias."""
    mean, var, weight, bias = (make_tensor((channels,), dtype, seed=seed) for seed in (2, 3, 4, 5))
    return mean, var.abs() + 0.5, weight, bias


def with_statistics(function):
    """``function`` on copies of the running statistics, which it returns too."""

    def run(x, running_mean, running_var, *others, **arguments):
        copies = running_mean.clone(), running_var.clone()
        return function(x, *copies, *others, **arguments), *copies

    return run


def of_differentiable(function, statistics):
    """``function`` of x, weight and bias alone, on copies of ``statistics`` (in float64 where x is)."""

    def run(x, weight, bias, **arguments):
        wide = x.dtype == torch.float64
        copies = [s if s is None else s.double() if wide else s.clone() for s in statistics]
        return function(x, *copies, weight, bias, **arguments)

    return run


def assert_exact(x, running_mean, running_var, weight, bias, **arguments):
    """The parity rule for output, running statistics and gradients."""
    functions = F.batch_norm, reference.batch_norm, torch_functional.batch_norm
    tensors = x, running_mean, running_var, weight, bias
    ours, exact, peer = map(with_statistics, functions)
    assert_as_exact_as_torch(ours(*tensors, **arguments), exact, peer, *tensors, **arguments)
    runs = [of_differentiable(function, (running_mean, running_var)) for function in functions]
    assert_gradients_as_exact_as_torch(*runs, x, weight, bias, **arguments)


@both_modes
@both_layouts
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_output_statistics_and_gradients(shape, dtype, channels_last, training, backend):
    x = make_tensor(shape, dtype, channels_last=channels_last, seed=1)
    assert_exact(x, *make_parameters(shape[1], dtype), training=training)


@both_modes
@both_layouts
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bits_with_parameters_in_float32(dtype, channels_last, training, backend):
    x = make_tensor((5, 19, 6, 7), dtype, channels_last=channels_last, seed=1)
    assert_exact(x, *make_parameters(19), training=training)


@both_modes
@both_layouts
@pytest.mark.parametrize("shape", [(6, 37, 9, 10), (5, 21, 3, 3), (3, 2, 80, 70)], ids=str)
@pytest.mark.parametrize(("mean", "std"), [(1e4, 1e-2), (-300.0, 1.0), (1e-3, 1e-6), (0.0, 1e4)], ids=str)
def test_large_mean_and_small_variance(mean, std, shape, channels_last, training, backend):
    x = make_tensor(shape, channels_last=channels_last, seed=1).mul_(std).add_(mean)
    running_mean, running_var, weight, bias = make_parameters(shape[1])
    assert_exact(x, running_mean * std + mean, running_var * std**2, weight, bias, training=training, momentum=0.3)


@both_layouts
def test_values_that_drift_along_the_batch(channels_last, backend):
    x = make_tensor((24, 17, 12, 12), channels_last=channels_last, seed=1)
    x += torch.arange(24.0).view(-1, 1, 1, 1) * 100
    x[0, 3, 0, 0] = 1e5
    assert_exact(x, *make_parameters(17), training=True)


@both_layouts
@pytest.mark.parametrize("backend", own_backends(OP), indirect=True)
def test_a_constant_channel_becomes_zero(channels_last, backend):
    x = make_tensor((4, 5, 8, 9), channels_last=channels_last)
    x[:, 2] = 3.7
    output = F.batch_norm(x, None, None, training=True)
    assert output[:, 2].abs().max() < 1e-4


@both_modes
def test_other_ranks(training, backend):
    volume = make_tensor((2, 7, 3, 4, 5), seed=1)
    inputs = [volume[:, :, 0, 0, 0], volume[:, :, 0, 0], volume, volume.to(memory_format=torch.channels_last_3d)]
    for x in inputs:
        assert_exact(x, *make_parameters(7), training=training)
        ours = F.batch_norm(x, *make_parameters(7), training=training)
        assert ours.stride() == torch_functional.batch_norm(x, *make_parameters(7), training=training).stride()


@both_layouts
@both_modes
def test_the_layout_is_kept(training, channels_last, backend):
    x = make_tensor((3, 6, 5, 4), channels_last=channels_last, requires_grad=True)
    output = F.batch_norm(x, *make_parameters(6), training=training)
    assert output.stride() == x.stride()
    for grad in (torch.ones_like(output), torch.ones(1).expand_as(output), torch.ones(3, 6, 5, 4)):
        (grad_x,) = torch.autograd.grad(output, x, grad, retain_graph=True)
        assert grad_x.stride() == x.stride()


@both_modes
def test_non_contiguous_inputs(training, backend):
    x = make_tensor((8, 6, 10, 14), seed=1)[::2, 1:, ::3, 1::2]
    buffer = make_tensor((4, 10), seed=2).abs() + 0.1
    assert_exact(x, *(buffer[i, ::2] for i in range(4)), training=training)
    running = torch.ones(5, 2)
    F.batch_norm(x, running[:, 0], running[:, 1], training=True, momentum=1.0)
    expected = torch.ones(5), torch.ones(5)
    torch_functional.batch_norm(x, *expected, training=True, momentum=1.0)
    torch.testing.assert_close(running, torch.stack(expected, 1))


@both_modes
@pytest.mark.parametrize("missing", ["weight", "bias", "both"])
def test_without_affine_parameters(missing, training, backend):
    x, (running_mean, running_var, weight, bias) = make_tensor((3, 7, 6, 5), seed=1), make_parameters(7)
    weight, bias = None if missing != "bias" else weight, None if missing != "weight" else bias
    assert_exact(x, running_mean, running_var, weight, bias, training=training)


def test_without_running_statistics(backend):
    x, (_, _, weight, bias) = make_tensor((3, 7, 6, 5), seed=1), make_parameters(7)
    functions = F.batch_norm, reference.batch_norm, torch_functional.batch_norm
    runs = [of_differentiable(function, (None, None)) for function in functions]
    assert_as_exact_as_torch(runs[0](x, weight, bias, training=True), *runs[1:], x, weight, bias, training=True)
    assert_gradients_as_exact_as_torch(*runs, x, weight, bias, training=True)


@both_modes
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (0, 3)], ids=str)
def test_empty_input(shape, training, backend):
    x = torch.empty(shape, requires_grad=True)
    running_mean, running_var, weight, bias = make_parameters(3)
    before = running_mean.clone(), running_var.clone()
    weight, bias = weight.requires_grad_(), bias.requires_grad_()
    output = F.batch_norm(x, running_mean, running_var, weight, bias, training)
    assert output.shape == shape
    output.sum().backward()
    assert x.grad.shape == shape and not weight.grad.any() and not bias.grad.any()
    assert torch.equal(running_mean, before[0]) and torch.equal(running_var, before[1])


@both_modes
@both_layouts
@pytest.mark.parametrize("shape", [(3, 21, 9, 8), (6, 21, 3, 3)], ids=str)
def test_nan_and_infinity_stay_in_their_channel(shape, channels_last, training, backend):
    x = make_tensor(shape, channels_last=channels_last, seed=1)
    x[1, 4, 1, 2], x[0, 9, 0, 0], x[-1, 17, -1, -1] = torch.nan, torch.inf, -torch.inf
    tensors = x, *make_parameters(21)
    ours, exact, peer = map(with_statistics, (F.batch_norm, reference.batch_norm, torch_functional.batch_norm))
    results = ours(*tensors, training=training)
    assert_as_exact_as_torch(results, exact, peer, *tensors, training=training)
    if training:
        assert {c for c in range(21) if not results[0][:, c].isfinite().all()} == {4, 9, 17}


@both_modes
@pytest.mark.parametrize("wanted", [0, 1, 2], ids=["input", "weight", "bias"])
def test_a_gradient_for_one_argument_alone(wanted, training, backend):
    x, (running_mean, running_var, weight, bias) = make_tensor((3, 7, 6, 5), seed=1), make_parameters(7)

    def gradient(function):
        tensors = [t.clone().requires_grad_(i == wanted) for i, t in enumerate((x, weight, bias))]
        output = of_differentiable(function, (running_mean, running_var))(*tensors, training=training)
        output.square().sum().backward()
        assert [t.grad is not None for t in tensors] == [i == wanted for i in range(3)]
        return tensors[wanted].grad

    torch.testing.assert_close(gradient(F.batch_norm), gradient(torch_functional.batch_norm), rtol=1e-4, atol=1e-4)


@both_layouts
@both_modes
@pytest.mark.parametrize("shape", [(3, 2, 2, 3), (5, 3, 2, 1)], ids=str)
def test_derivatives_of_every_order(shape, training, channels_last, backend):
    x = make_tensor(shape, torch.float64, channels_last=channels_last, requires_grad=True)
    running_mean, running_var, weight, bias = make_parameters(shape[1], torch.float64)
    run = of_differentiable(F.batch_norm, (running_mean, running_var))
    weight, bias = weight.requires_grad_(), bias.requires_grad_()
    for tensors in ((x, weight, bias), (x, None, None), (x.detach(), weight, bias)):
        assert torch.autograd.gradcheck(lambda *t: run(*t, training=training), tensors)
        assert torch.autograd.gradgradcheck(lambda *t: run(*t, training=training), tensors)


@both_layouts
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_of_the_input_of_a_frozen_norm(dtype, channels_last, backend):
    constant = make_parameters(21, dtype)

    def frozen(function):
        return lambda x: function(x, *(values.to(x.dtype) for values in constant))

    x = make_tensor((3, 21, 9, 8), dtype, channels_last=channels_last, seed=1)
    assert_gradients_as_exact_as_torch(
        *map(frozen, (F.batch_norm, reference.batch_norm, torch_functional.batch_norm)), x
    )


def test_second_derivative_of_a_frozen_norm(backend):
    constant = make_parameters(3, torch.float64)
    x = make_tensor((2, 3, 2, 2), torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: F.batch_norm(x, *constant), x)


@pytest.mark.parametrize("backend", own_backends(OP), indirect=True)
def test_third_derivative(backend):  # torch's own stops at the second
    x = make_tensor((4, 2, 1, 2), torch.float64, requires_grad=True)
    weight = make_tensor((2,), torch.float64, seed=1, requires_grad=True)

    def gradient(x, weight):
        output = F.batch_norm(x, None, None, weight, training=True)
        return torch.autograd.grad(output.pow(3).sum(), x, create_graph=True)[0]

    assert torch.autograd.gradgradcheck(gradient, (x, weight))
