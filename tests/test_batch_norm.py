import pytest
import torch
import torch.nn.functional as torch_functional

import cnnext
import cnnext.functional as F
from cnnext import reference
from cnnext.testing import (
    assert_as_exact_as_torch,
    assert_gradients_as_exact_as_torch,
    make_tensor,
    present_backends,
)

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
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


@pytest.fixture(params=present_backends("batch_norm"))
def backend(request):
    with cnnext.backend(request.param):
        yield request.param


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
def test_a_constant_channel_becomes_zero(channels_last):
    x = make_tensor((4, 5, 8, 9), channels_last=channels_last)
    x[:, 2] = 3.7
    with cnnext.backend("cpu"):
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
    for tensors in ((x, weight.requires_grad_(), bias.requires_grad_()), (x, None, None)):
        assert torch.autograd.gradcheck(lambda *t: run(*t, training=training), tensors)
        assert torch.autograd.gradgradcheck(lambda *t: run(*t, training=training), tensors)


def test_third_derivative():  # torch's own stops at the second
    x = make_tensor((4, 2, 1, 2), torch.float64, requires_grad=True)
    weight = make_tensor((2,), torch.float64, seed=1, requires_grad=True)

    def gradient(x, weight):
        with cnnext.backend("cpu"):
            output = F.batch_norm(x, None, None, weight, training=True)
        return torch.autograd.grad(output.pow(3).sum(), x, create_graph=True)[0]

    assert torch.autograd.gradgradcheck(gradient, (x, weight))


@both_layouts
@pytest.mark.parametrize("shape", [(16, 3, 60, 60), (8, 70, 20, 20), (64, 130, 3, 3), (16, 64, 24, 24)], ids=str)
def test_the_same_bits_for_any_number_of_threads(shape, channels_last):
    x, grad = (make_tensor(shape, channels_last=channels_last, seed=seed) for seed in (1, 2))
    weight = make_tensor(shape[1:2], seed=3)

    def run():
        forward = torch.ops.cnnext.batch_norm(x, weight, weight, None, None, True, 1e-5)
        return *forward, *torch.ops.cnnext.batch_norm_backward(grad, x, weight, *forward[1:], True, 1e-5)

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run()
        for number in (2, 3, 5):
            torch.set_num_threads(number)
            assert all(map(torch.equal, run(), alone))
    finally:
        torch.set_num_threads(threads)


@both_modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(dtype, training):
    x = make_tensor((3, 5, 4, 4), dtype, channels_last=True, requires_grad=True)
    running_mean, running_var, weight, bias = make_parameters(5)
    weight, bias = weight.requires_grad_(), bias.requires_grad_()
    statistics = (None, None) if training else (running_mean, running_var)
    ops = torch.ops.cnnext
    torch.library.opcheck(ops.batch_norm, (x, weight, bias, *statistics, training, 1e-5))
    arguments = (x.detach().clone().requires_grad_(), x, weight, running_mean, running_var, training, 1e-5)
    torch.library.opcheck(ops.batch_norm_backward, arguments)
    torch.library.opcheck(ops.batch_norm_update_, (running_mean, running_var, bias.detach(), running_var + 1, 48, 0.1))


@both_modes
@pytest.mark.parametrize("shape", [(4, 6, 5, 5), (4, 6), (4, 6, 3, 4, 4)], ids=str)
def test_compiles_into_one_graph(shape, training):
    def step(x, running_mean, running_var, weight, bias):
        return F.batch_norm(x, running_mean, running_var, weight, bias, training=training).relu()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    results = []
    for function in (step, compiled):
        running_mean, running_var, weight, bias = make_parameters(6)
        leaves = [t.requires_grad_() for t in (make_tensor(shape, seed=1), weight, bias)]
        output = function(leaves[0], running_mean, running_var, *leaves[1:])
        output.sum().backward()
        results.append([output, running_mean, running_var, *(leaf.grad for leaf in leaves)])
    torch.testing.assert_close(*results)


X, C3 = torch.ones(2, 3, 4, 4), torch.ones(3)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (([1.0], C3, C3), TypeError, "`input` must be a torch.Tensor"),
        ((X, [1.0], C3), TypeError, "`running_mean` must be a torch.Tensor"),
        ((X, C3, C3, 1.0), TypeError, "`weight` must be a torch.Tensor"),
        ((X, C3, C3, None, None, "yes"), TypeError, "`training` must be a bool, but got 'yes'"),
        ((X, C3, C3, None, None, True, None), TypeError, "`momentum` must be a float, but got None"),
        ((X, C3, C3, None, None, True, 0.1, "a"), TypeError, "`eps` must be a float, but got 'a'"),
        ((X, C3, C3, None, None, True, 0.1, 0.0), ValueError, "eps must be positive in training"),
        ((X, C3, C3, None, None, False, 0.1, -1.0), ValueError, "non-negative, but got -1.0"),
        ((X[:1, :, :1, :1], C3, C3, None, None, True), ValueError, "Expected more than 1 value per channel"),
        ((X, None, None), RuntimeError, "must be given when training=False"),
        ((X, C3, None), ValueError, "both be None or neither"),
        ((X, None, C3, None, None, True), ValueError, "both be None or neither"),
        ((torch.ones(3), C3, C3), RuntimeError, r"at least 2 dimensions, .* got shape \[3\]"),
        ((X, C3[:2], C3), RuntimeError, r"`running_mean` of shape \[3\].* got shape \[2\]"),
        ((X, C3, torch.ones(3, 1)), RuntimeError, r"`running_var` of shape \[3\].* got shape \[3, 1\]"),
        ((X, C3, C3, torch.ones(4)), RuntimeError, r"`weight` of shape \[3\].* got shape \[4\]"),
        ((X, C3, C3, C3, torch.ones(())), RuntimeError, r"`bias` of shape \[3\].* got shape \[\]"),
        ((X.double(), C3, C3), RuntimeError, "`running_mean` of dtype Double"),
        ((X, C3, C3, C3.double()), RuntimeError, "`weight` of dtype Float"),
        ((X.half(), C3, C3, C3.half()), RuntimeError, "`weight` and `running_mean` of one dtype"),
        ((X.half(), C3.bfloat16(), C3.bfloat16()), RuntimeError, "`running_mean` of dtype Half or Float"),
        ((X.long(), C3, C3), RuntimeError, "no kernels for torch.int64"),
        ((X, C3, C3, C3.to("meta")), RuntimeError, "on one device, but got cpu and meta"),
        ((X, C3.clone().requires_grad_(), C3), RuntimeError, "`running_mean` must not require a gradient"),
        ((X, torch.zeros(1).expand(3), C3, None, None, True), RuntimeError, "not to be expanded"),
    ],
)
def test_refusals(arguments, error, words):
    with cnnext.backend("cpu"), pytest.raises(error, match=words):
        F.batch_norm(*arguments)


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("batch_norm", (X[0], None, None, None, None, True, 1e-5)),
        ("batch_norm", (X, None, None, None, None, False, 1e-5)),
        ("batch_norm", (X, None, None, C3, None, False, 1e-5)),
        ("batch_norm", (X, None, None, None, None, True, 0.0)),
        ("batch_norm", (X, C3[:2], None, None, None, True, 1e-5)),
        ("batch_norm", (X, None, torch.ones(3, 3), None, None, True, 1e-5)),
        ("batch_norm", (X, C3.long(), None, None, None, True, 1e-5)),
        ("batch_norm", (X.long(), None, None, None, None, True, 1e-5)),
        ("batch_norm_backward", (X[:1], X, None, C3, C3, True, 1e-5)),
        ("batch_norm_backward", (X.double(), X, None, C3, C3, True, 1e-5)),
        ("batch_norm_backward", (X, X, C3[:1], C3, C3, True, 1e-5)),
        ("batch_norm_backward", (X, X, None, C3[:0], C3[:0], True, 1e-5)),
        ("batch_norm_backward", (X, X, None, C3, C3.double(), True, 1e-5)),
        ("batch_norm_backward", (X[0], X[0], None, C3, C3, True, 1e-5)),
        ("batch_norm_update_", (C3.clone(), C3[:2].clone(), C3, C3, 4, 0.1)),
        ("batch_norm_update_", (C3.clone(), C3.clone(), C3, torch.ones(2, 3), 4, 0.1)),
        ("batch_norm_update_", (C3.clone(), C3.clone(), C3, C3, 1, 0.1)),
        ("batch_norm_update_", (C3.clone(), C3.double(), C3, C3, 4, 0.1)),
        ("batch_norm_update_", (C3.long(), C3.long(), C3, C3, 4, 0.1)),
        ("batch_norm_update_", (torch.ones(()), torch.ones(()), torch.ones(()), torch.ones(()), 4, 0.1)),
        ("batch_norm_update_", (torch.ones(1).expand(3), C3.clone(), C3, C3, 4, 0.1)),
    ],
)
def test_ops_refuse_nonsense(op, arguments):
    with pytest.raises(RuntimeError, match="expected"):
        getattr(torch.ops.cnnext, op)(*arguments)
