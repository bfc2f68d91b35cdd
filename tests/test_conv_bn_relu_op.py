"""The fused ops as registered ops, compilation, and what the fused functions refuse."""

import pytest
import torch
from ours import own_backends, own_namespaces
from test_conv_bn_relu import CASES, make_case, make_norm, of_torch

import cnnext.functional as F
from cnnext.testing import make_tensor

OP = ("conv2d", "batch_norm")
GEOMETRY = ((2, 1), (1, 0), (1, 1), 2, False, False)
both_layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])


def norm_of(channels, dtype=torch.float32, seed=10):
    """mean, var, weight and bias of a prologue, or of a norm."""
    weight, bias, mean, var = make_norm(channels, dtype, seed)
    return mean, var, weight.requires_grad_(), bias.requires_grad_()


def opcheck(namespace, op, *arguments):
    torch.library.opcheck(getattr(getattr(torch.ops, namespace), op).default, arguments)


@pytest.mark.parametrize("namespace", own_namespaces("conv2d_statistics"))
@both_layouts
def test_opcheck_of_the_convolutions(channels_last, namespace):
    x = make_tensor((2, 4, 6, 5), channels_last=channels_last, seed=1, requires_grad=True)
    weight = make_tensor((6, 2, 3, 3), channels_last=channels_last, seed=2, requires_grad=True)
    bias = make_tensor((6,), seed=3, requires_grad=True)
    nothing = (None, None, None, None, 0.0)
    opcheck(namespace, "conv2d_statistics", x, weight, bias, *nothing, *GEOMETRY)
    opcheck(namespace, "conv2d_statistics", x, weight, None, *norm_of(4), 1e-5, *GEOMETRY)
    output = torch.ops.cnnext.conv2d(x, weight, bias, *GEOMETRY).detach().requires_grad_()
    weight_size = list(weight.shape)
    opcheck(namespace, "conv2d_backward_weight_prologue", output, x, weight_size, *norm_of(4), 1e-5, *GEOMETRY)
    residual = make_tensor(tuple(output.shape), channels_last=not channels_last, seed=4, requires_grad=True)
    opcheck(namespace, "conv2d_residual_relu", x, weight, bias, residual, True, *GEOMETRY)
    opcheck(namespace, "conv2d_residual_relu", x, weight, None, None, False, *GEOMETRY)


@pytest.mark.parametrize("namespace", own_namespaces("batch_norm_relu"))
@pytest.mark.parametrize(
    ("dtype", "channels_last"), [(torch.float32, False), (torch.bfloat16, True)], ids=["float32", "bfloat16"]
)
def test_opcheck_of_the_norms(dtype, channels_last, namespace):
    x, grad, residual = (
        make_tensor((2, 5, 4, 3), dtype, channels_last=channels_last, seed=seed, requires_grad=True)
        for seed in (1, 2, 3)
    )
    norm, eps = norm_of(5), 1e-5
    opcheck(namespace, "batch_norm_relu", x, *norm, residual, True, eps)
    opcheck(namespace, "batch_norm_relu", x, *norm[:2], None, None, None, False, eps)
    output = getattr(torch.ops, namespace).batch_norm_relu(x, *norm, residual, True, eps).detach()
    for arguments in ((output, True, eps), (None, True, eps)):
        opcheck(namespace, "batch_norm_relu_backward", grad, x, *norm, *arguments)
        opcheck(namespace, "batch_norm_relu_backward_sums", grad, x, *norm, *arguments)
    sums = make_tensor((5,), seed=4, requires_grad=True), make_tensor((5,), seed=5, requires_grad=True)
    opcheck(namespace, "batch_norm_relu_backward_apply", grad, x, *norm, output, *sums, 24, True, eps)
    opcheck(namespace, "batch_norm_relu_backward_apply", grad, x, *norm, None, *sums, 24, True, eps)


@pytest.mark.parametrize("namespace", own_namespaces("batch_norm_relu"))
@both_layouts
@pytest.mark.parametrize("has_residual", [False, True])
def test_the_parts_of_the_backward_make_the_whole(has_residual, channels_last, namespace):
    ops = getattr(torch.ops, namespace)
    x, grad, residual = (make_tensor((3, 7, 5, 4), channels_last=channels_last, seed=seed) for seed in (1, 2, 3))
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    norm = (mean, var, *(t.detach() for t in norm_of(7)[2:]))
    output = ops.batch_norm_relu(x, *norm, residual, True, 1e-5) if has_residual else None
    whole = ops.batch_norm_relu_backward(grad, x, *norm, output, True, 1e-5)
    sums = ops.batch_norm_relu_backward_sums(grad, x, *norm, output, True, 1e-5)
    parts = ops.batch_norm_relu_backward_apply(grad, x, *norm, output, *sums, 60, True, 1e-5)
    torch.testing.assert_close([*whole], [*parts, sums[1], sums[0]])


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_compiles_into_one_graph(training, backend):
    tensors, geometry = make_case(CASES["3x3"])

    def step(x, weight, bias, bn_weight, bn_bias, mean, var, residual):
        stages = (
            F.ConvBN(weight, bias, bn_weight, bn_bias, mean, var, training, **geometry),
            F.ConvBN(weight[:, :1].mT, None, bn_weight, bn_bias, mean, var, training, groups=18, **geometry),
        )
        return F.conv_bn_relu_chain(x, stages, residual)

    torch.compiler.reset()  # it compiles a function a few times only, and this one is for several backends
    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        leaves = [t.clone().requires_grad_(i not in (5, 6)) for i, t in enumerate(tensors)]
        output = function(*leaves)
        output.sum().backward()
        results.append([output, *(leaf.grad if leaf.requires_grad else leaf for leaf in leaves)])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_autocast(training, backend):
    tensors, geometry = make_case(CASES["3x3"])
    narrow = [t.bfloat16() if i in (0, 1, 2, 7) else t.clone() for i, t in enumerate(tensors)]
    with torch.autocast("cpu", torch.bfloat16):
        output = F.conv_bn_relu(*(t.clone() for t in tensors), training=training, **geometry)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, F.conv_bn_relu(*narrow, training=training, **geometry), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
def test_function_transforms_differentiate(training, backend):
    tensors, geometry = make_case(CASES["3x3"], torch.float64)
    weight = tensors[1][:, :1].expand(-1, 18, -1, -1).contiguous()

    def loss(function):
        def run(x):
            norm = (t.clone() for t in tensors[3:7])
            y = function(x, *tensors[1:3], *norm, training=training, **geometry)
            norm = (t.clone() for t in tensors[3:7])
            return function(y, weight, None, *norm, tensors[7], training=training, **geometry).square().sum()

        return run

    for transform in (torch.func.grad, lambda f: torch.func.grad(lambda x: torch.func.grad(f)(x).square().sum())):
        gradients = [transform(loss(function))(tensors[0]) for function in (F.conv_bn_relu, of_torch)]
        torch.testing.assert_close(*gradients)


X, W, C3 = torch.ones(2, 4, 5, 5), torch.ones(3, 4, 3, 3), torch.ones(3)
NORM = {"bn_weight": C3, "bn_bias": C3, "running_mean": C3, "running_var": C3}


@pytest.mark.parametrize("backend", own_backends("batch_norm"), indirect=True)
@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"input": [1.0]}, TypeError, "`input` must be a torch.Tensor"),
        ({"weight": 1.0}, TypeError, "`weight` must be a torch.Tensor"),
        ({"bias": 1.0}, TypeError, "`bias` must be a torch.Tensor"),
        ({"bn_weight": 1.0}, TypeError, "`bn_weight` must be a torch.Tensor"),
        ({"residual": 1.0}, TypeError, "`residual` must be a torch.Tensor"),
        ({"relu": 1}, TypeError, "`relu` must be a bool, but got 1"),
        ({"training": "yes"}, TypeError, "`training` must be a bool, but got 'yes'"),
        ({"momentum": None}, TypeError, "`momentum` must be a float, but got None"),
        ({"eps": "a"}, TypeError, "`eps` must be a float, but got 'a'"),
        ({"stride": "a"}, TypeError, "`stride` must be an int or a pair"),
        ({"groups": 1.0}, TypeError, "`groups` must be an int, but got 1.0"),
        ({"padding": "all"}, RuntimeError, "`padding` must be 'same', 'valid', an int or a pair, but got 'all'"),
        ({"input": X[0]}, RuntimeError, r"`input` with 4 dimensions, but got shape \[4, 5, 5\]"),
        ({"input": X[:, :3]}, RuntimeError, r"`input` with 4 channels .* got shape \[2, 3, 5, 5\]"),
        ({"dilation": 3}, RuntimeError, r"`weight` \[3, 4, 3, 3\] to fit into the padded `input` \[2, 4, 5, 5\]"),
        ({"bn_bias": torch.ones(4)}, RuntimeError, r"`bn_bias` of shape \[3\].* got shape \[4\]"),
        ({"running_mean": torch.ones(3, 1)}, RuntimeError, r"`running_mean` of shape \[3\].* got shape \[3, 1\]"),
        ({"running_var": C3.double()}, RuntimeError, "`running_var` of dtype torch.float32, but got torch.float64"),
        ({"running_var": C3.to("meta")}, RuntimeError, "`input` and `running_var` on one device"),
        ({"running_mean": None}, ValueError, "both be None or neither"),
        ({"running_mean": None, "running_var": None}, RuntimeError, "must be given when training=False"),
        ({"running_mean": C3.clone().requires_grad_()}, RuntimeError, "`running_mean` must not require a gradient"),
        ({"eps": -1.0}, ValueError, "non-negative, but got -1.0"),
        ({"eps": 0.0, "training": True}, ValueError, "eps must be positive in training"),
        ({"input": X[:1, :, :3, :3], "training": True}, ValueError, r"more than 1 value per channel.*\[1, 3, 1, 1\]"),
        (
            {"residual": C3.view(3, 1, 1)},
            RuntimeError,
            r"`residual` of the output's shape \[2, 3, 3, 3\].* \[3, 1, 1\]",
        ),
        ({"residual": torch.ones(2, 3, 3, 3).half()}, RuntimeError, "dtype torch.float32, but got torch.float16"),
        ({"residual": torch.ones(2, 3, 3, 3, device="meta")}, RuntimeError, "`residual` on one device"),
    ],
)
def test_refusals(changed, error, words, backend):
    arguments = {"input": X, "weight": W, "bias": None, **NORM, **changed}
    before = C3.clone()
    with pytest.raises(error, match=words):
        F.conv_bn_relu(**arguments)
    assert torch.equal(C3, before)


@pytest.mark.parametrize("backend", own_backends("batch_norm"), indirect=True)
def test_refusals_of_a_block_leave_the_running_statistics(backend):
    mean, var = torch.zeros(4), torch.ones(4)
    stage = F.ConvBN(torch.ones(4, 4, 3, 3), None, None, None, mean, var, True)
    with pytest.raises(RuntimeError, match=r"`residual` of the output's shape \[2, 4, 1, 1\].* \[2, 4, 5, 5\]"):
        F.residual_block(X, (stage, stage))
    with pytest.raises(RuntimeError, match="at least one stage"):
        F.residual_block(X, ())
    assert not mean.any()


def test_norms_of_16_bit_layers_have_one_dtype():
    narrow = {name: t.bfloat16() for name, t in NORM.items()}
    arguments = {"input": X.bfloat16(), "weight": W.bfloat16(), "bias": None}
    assert F.conv_bn_relu(**arguments, **narrow).dtype == torch.bfloat16
    assert F.conv_bn_relu(**arguments, **NORM).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="of one dtype, but got `bn_weight` of torch.float32, `bn_bias` of"):
        F.conv_bn_relu(**arguments, **{**narrow, "bn_weight": C3})


ONES = torch.ones(2, 3, 3, 3)
PLAIN = ((1, 1), (0, 0), (1, 1), 1, False, False)
NOTHING = (None, None, None, None, 0.0)
NONSENSE = [
    ("conv2d_statistics", (X[0], W, None, *NOTHING, *PLAIN)),
    ("conv2d_statistics", (X, W.double(), None, *NOTHING, *PLAIN)),
    ("conv2d_statistics", (X, W, torch.ones(2), *NOTHING, *PLAIN)),
    ("conv2d_statistics", (X, W, None, torch.ones(4), None, None, None, 1e-5, *PLAIN)),
    ("conv2d_statistics", (X, W, None, None, None, torch.ones(4), None, 1e-5, *PLAIN)),
    ("conv2d_statistics", (X, W, None, C3, C3, None, None, 1e-5, *PLAIN)),
    ("conv2d_statistics", (X, W, None, torch.ones(4), torch.ones(4), None, None, 0.0, *PLAIN)),
    ("conv2d_statistics", (X, W, None, torch.ones(4), torch.ones(4), torch.ones(4).long(), None, 1e-5, *PLAIN)),
    ("conv2d_residual_relu", (X, W, None, ONES[:1], True, *PLAIN)),
    ("conv2d_residual_relu", (X, W, None, ONES.double(), True, *PLAIN)),
    ("conv2d_residual_relu", (X.long(), W.long(), None, None, True, *PLAIN)),
    ("conv2d_backward_weight_prologue", (ONES[:1], X, [3, 4, 3, 3], *[torch.ones(4)] * 4, 1e-5, *PLAIN)),
    ("conv2d_backward_weight_prologue", (ONES, X, [3, 4, 3, 3], *[C3] * 4, 1e-5, *PLAIN)),
    ("batch_norm_relu", (ONES[0], C3, C3, None, None, None, True, 1e-5)),
    ("batch_norm_relu", (ONES, C3[:2], C3, None, None, None, True, 1e-5)),
    ("batch_norm_relu", (ONES, C3, C3, None, None, ONES[:1], True, 1e-5)),
    ("batch_norm_relu", (ONES, C3, C3, None, None, ONES.half(), True, 1e-5)),
    ("batch_norm_relu", (ONES, C3, C3, None, None, None, True, 0.0)),
    ("batch_norm_relu_backward", (ONES[:1], ONES, C3, C3, None, None, None, True, 1e-5)),
    ("batch_norm_relu_backward", (ONES, ONES, C3, C3, None, None, ONES[:, :2], True, 1e-5)),
    ("batch_norm_relu_backward_sums", (ONES, ONES, C3, C3.double(), None, None, None, True, 1e-5)),
    ("batch_norm_relu_backward_apply", (ONES, ONES, C3, C3, None, None, None, C3[:1], C3, 18, True, 1e-5)),
    ("batch_norm_relu_backward_apply", (ONES, ONES, C3, C3, None, None, None, C3, C3, 0, True, 1e-5)),
]


@pytest.mark.parametrize(
    ("namespace", "op", "arguments"), [(n, *case) for case in NONSENSE for n in own_namespaces(case[0])]
)
def test_ops_refuse_nonsense(namespace, op, arguments):
    with pytest.raises(RuntimeError, match="expected"):
        getattr(getattr(torch.ops, namespace), op)(*arguments)
