"""batch_norm as a registered op: determinism, torch's op checks, compilation, and what it refuses."""

import pytest
import torch
from ours import own_backends, own_namespaces

import cnnext.functional as F
from cnnext.testing import make_tensor

OP = "batch_norm"
both_modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


def make_parameters(channels):
    """running_mean, running_var, weight, bias."""
    mean, var, weight, bias = (make_tensor((channels,), seed=seed) for seed in (2, 3, 4, 5))
    return mean, var.abs() + 0.5, weight, bias


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
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


@pytest.mark.parametrize("namespace", own_namespaces(OP))
@both_modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(dtype, training, namespace):
    x = make_tensor((3, 5, 4, 4), dtype, channels_last=True, requires_grad=True)
    running_mean, running_var, weight, bias = make_parameters(5)
    weight, bias = weight.requires_grad_(), bias.requires_grad_()
    statistics = (None, None) if training else (running_mean, running_var)
    ops = getattr(torch.ops, namespace)
    torch.library.opcheck(ops.batch_norm, (x, weight, bias, *statistics, training, 1e-5))
    arguments = (x.detach().clone().requires_grad_(), x, weight, running_mean, running_var, training, 1e-5)
    torch.library.opcheck(ops.batch_norm_backward, arguments)
    torch.library.opcheck(ops.batch_norm_update_, (running_mean, running_var, bias.detach(), running_var + 1, 48, 0.1))


@both_modes
@pytest.mark.parametrize("shape", [(4, 6, 5, 5), (4, 6), (4, 6, 3, 4, 4)], ids=str)
def test_compiles_into_one_graph(shape, training, backend):
    def step(x, running_mean, running_var, weight, bias):
        return F.batch_norm(x, running_mean, running_var, weight, bias, training=training).relu()

    torch.compiler.reset()  # it compiles a function a few times only, and this one is for several backends
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


@pytest.mark.parametrize("backend", own_backends(OP), indirect=True)
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
def test_refusals(arguments, error, words, backend):
    with pytest.raises(error, match=words):
        F.batch_norm(*arguments)


@pytest.mark.parametrize("namespace", own_namespaces(OP))
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
def test_ops_refuse_nonsense(op, arguments, namespace):
    with pytest.raises(RuntimeError, match="expected"):
        getattr(getattr(torch.ops, namespace), op)(*arguments)
