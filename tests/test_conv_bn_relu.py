"""The fused convolution, norm, residual and ReLU against their definitions, one after the other, in float64."""

import pytest
import torch
import torch.nn.functional as torch_functional

import cnnext.functional as F
from cnnext import reference
from cnnext.backends import DTYPES
from cnnext.testing import assert_as_exact_as_torch, assert_gradients_as_exact_as_torch, make_tensor

OP = ("conv2d", "batch_norm")  # with these a backend runs the fused functions, one by one if need be
CASES = {
    "3x3": ((2, 5, 7, 6), 18, 3, {"padding": 1}),
    "strided": ((2, 8, 9, 8), 19, 3, {"padding": 1, "stride": 2}),
    "1x1 strided": ((3, 6, 9, 8), 28, 1, {"stride": (2, 1)}),
    "grouped": ((2, 12, 6, 7), 24, 3, {"padding": 1, "groups": 3}),
    "depthwise": ((2, 20, 6, 5), 20, 3, {"padding": 1, "groups": 20}),
    "dilated, same": ((1, 3, 8, 7), 5, 3, {"padding": "same", "dilation": 2}),
    "stem": ((2, 1, 17, 18), 8, 7, {"padding": 3, "stride": 2}),
    "many channels, small images": ((5, 70, 3, 3), 66, 3, {"padding": 1}),
    "many small images": ((17, 6, 4, 4), 7, 3, {"padding": 1}),
}
LAYOUTS = {"nchw": False, "channels_last": True}
both_modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
both_layouts = pytest.mark.parametrize("channels_last", LAYOUTS.values(), ids=LAYOUTS)
all_cases = pytest.mark.parametrize(
    ("case", "dtype"),
    [
        *(pytest.param(case, torch.float32, id=name) for name, case in CASES.items()),
        *(pytest.param(CASES["3x3"], dtype, id=f"3x3, {dtype}") for dtype in DTYPES if dtype != torch.float32),
    ],
)


def of_torch(x, weight, bias, bn_weight, bn_bias, mean, var, residual=None, relu=True, training=False, **geometry):
    output = torch_functional.conv2d(x, weight, bias, **geometry)
    output = torch_functional.batch_norm(output, mean, var, bn_weight, bn_bias, training)
    output = output if residual is None else output + residual
    return output.relu() if relu else output


def of_reference(x, weight, *tensors, padding=0, dilation=1, **arguments):
    if padding == "same":
        padding = dilation * (weight.shape[-1] - 1) // 2
    return reference.conv_bn_relu(x, weight, *tensors, padding=padding, dilation=dilation, **arguments)


def make_norm(channels, dtype=torch.float32, seed=10):
    """bn_weight, bn_bias, running_mean, running_var."""
    weight, bias, mean, var = (make_tensor((channels,), dtype, seed=seed + i) for i in range(4))
    return weight, bias, mean, var.abs() + 0.5


def make_case(case, dtype=torch.float32, channels_last=False, residual=True):
    shape, out, kernel, geometry = case
    groups = geometry.get("groups", 1)
    x = make_tensor(shape, dtype, channels_last=channels_last, seed=1)
    weight = make_tensor((out, shape[1] // groups, kernel, kernel), dtype, channels_last=channels_last, seed=2)
    weight.mul_((shape[1] // groups * kernel * kernel) ** -0.5)
    tensors = [x, weight, make_tensor((out,), dtype, seed=3), *make_norm(out, dtype)]
    if residual:
        size = torch_functional.conv2d(x.double(), weight.double(), **geometry).shape
        tensors.append(make_tensor(tuple(size), dtype, channels_last=channels_last, seed=4))
    return tensors, geometry


def with_statistics(function):
    """``function`` on copies of the running statistics, which it returns too."""

    def run(*tensors, **arguments):
        tensors = [t.clone() if i in (5, 6) else t for i, t in enumerate(tensors)]
        return function(*tensors, **arguments), tensors[5], tensors[6]

    return run


def with_constant_statistics(function, statistics):
    """``function`` of the differentiable tensors alone, on copies of ``statistics``."""

    def run(x, weight, bias, bn_weight, bn_bias, *residual, **arguments):
        wide = x.dtype == torch.float64
        copies = [s.double() if wide else s.clone() for s in statistics]
        return function(x, weight, bias, bn_weight, bn_bias, *copies, *residual, **arguments)

    return run


def with_constant_bias(function, bias):
    return lambda x, weight, *others, **arguments: function(x, weight, bias.to(x.dtype), *others, **arguments)


def differentiable(tensors):
    return [*tensors[:5], *tensors[7:]]


def held_open(function, open_):
    """``function`` with the ReLU's mask given: whose values lie next to zero, rounding decides on the mask."""

    def run(*tensors, relu, **arguments):
        output = function(*tensors, relu=False, **arguments)
        return output * open_.to(output.dtype) if relu else output

    return run


@both_modes
@both_layouts
@all_cases
def test_output_and_running_statistics(case, dtype, channels_last, training, backend):
    tensors, geometry = make_case(case, dtype, channels_last)
    functions = (F.conv_bn_relu, of_reference, of_torch)
    for count, relu in ((8, True), (7, True), (8, False)):
        ours, exact, peer = map(with_statistics, functions)
        arguments = {**geometry, "relu": relu, "training": training}
        output = ours(*tensors[:count], **arguments)
        assert_as_exact_as_torch(output, exact, peer, *tensors[:count], **arguments)


@both_modes
@both_layouts
@all_cases
def test_gradients(case, dtype, channels_last, training, backend):
    tensors, geometry = make_case(case, dtype, channels_last)
    for count in (8, 7):
        arguments = {**geometry, "relu": True, "training": training}
        ours = with_constant_statistics(F.conv_bn_relu, tensors[5:7])
        leaves = differentiable(tensors[:count])
        open_ = ours(*leaves, **arguments) > 0
        peers = [held_open(with_constant_statistics(f, tensors[5:7]), open_) for f in (of_reference, of_torch)]
        if training:  # the norm takes the convolution's bias away: its gradient is the noise of zero
            bias = leaves.pop(2)
            ours, *peers = (with_constant_bias(function, bias) for function in (ours, *peers))
        assert_gradients_as_exact_as_torch(ours, *peers, *leaves, **arguments)


BLOCKS = pytest.mark.parametrize("shortcut", ["identity", "conv", "conv and norm"])


def block_of(convolution, layer, shortcut, training):
    """A basic block of the unfused ``layer``, as a function of tensors."""

    def run(x, weight1, bias1, weight2, bias2, weight3, bias3, *norms):
        stride = 1 if shortcut == "identity" else 2
        norm1, norm2, norm3 = (norms[i : i + 4] for i in (0, 4, 8))
        side = x
        if shortcut == "conv":
            side = convolution(x, weight3, bias3, stride)
        elif shortcut == "conv and norm":
            side = layer(x, weight3, bias3, *norm3, relu=False, stride=stride, training=training)
        y = layer(x, weight1, bias1, *norm1, padding=1, stride=stride, training=training)
        return layer(y, weight2, bias2, *norm2, side, padding=1, training=training)

    return run


def our_block(shortcut, training):
    def run(x, weight1, bias1, weight2, bias2, weight3, bias3, *norms):
        stride = 1 if shortcut == "identity" else 2
        norm1, norm2, norm3 = (norms[i : i + 4] for i in (0, 4, 8))
        stages = (
            F.ConvBN(weight1, bias1, *norm1, training, padding=1, stride=stride),
            F.ConvBN(weight2, bias2, *norm2, training, padding=1),
        )
        side = F.ConvBN(weight3, bias3, *norm3, training, stride=stride, norm=shortcut == "conv and norm")
        return F.residual_block(x, stages, None if shortcut == "identity" else side)

    return run


def make_block(shortcut, dtype=torch.float32, channels_last=False, shape=(3, 7, 6, 8)):
    out = shape[1] if shortcut == "identity" else 18
    x = make_tensor(shape, dtype, channels_last=channels_last, seed=1)
    weights = []
    for i, (inner, kernel) in enumerate(((shape[1], 3), (out, 3), (shape[1], 1))):
        weight = make_tensor((out, inner, kernel, kernel), dtype, channels_last=channels_last, seed=2 + i)
        weights += [weight.mul_((inner * kernel * kernel) ** -0.5), make_tensor((out,), dtype, seed=5 + i)]
    return [x, *weights, *make_norm(out, dtype, 10), *make_norm(out, dtype, 20), *make_norm(out, dtype, 30)]


STATISTICS = (9, 10, 13, 14, 17, 18)


@both_modes
@both_layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@BLOCKS
def test_residual_block(shortcut, dtype, channels_last, training, backend):
    tensors = make_block(shortcut, dtype, channels_last)
    functions = (
        our_block(shortcut, training),
        block_of(reference.conv2d, of_reference, shortcut, training),
        block_of(torch_functional.conv2d, of_torch, shortcut, training),
    )

    def with_statistics(function):
        def run(*tensors):
            tensors = [t.clone() if i in STATISTICS else t for i, t in enumerate(tensors)]
            return function(*tensors), *(tensors[i] for i in STATISTICS)

        return run

    ours, exact, peer = map(with_statistics, functions)
    assert_as_exact_as_torch(ours(*tensors), exact, peer, *tensors)


@both_modes
@both_layouts
@BLOCKS
def test_gradients_of_a_residual_block(shortcut, channels_last, training, backend):
    tensors = make_block(shortcut, channels_last=channels_last)
    learnt = [i for i in range(len(tensors)) if i not in STATISTICS]
    if shortcut != "conv and norm":
        learnt = [i for i in learnt if i < 15]
    if shortcut == "identity":
        learnt = [i for i in learnt if i not in (5, 6)]
    if training:  # the norm takes the bias of its convolution away: the gradient is the noise of zero
        learnt = [i for i in learnt if i not in (2, 4) and (i != 6 or shortcut == "conv")]

    def of_learnt(function):
        def run(*leaves):
            every = [t.to(leaves[0].dtype, copy=True) for t in tensors]
            for i, leaf in zip(learnt, leaves, strict=True):
                every[i] = leaf
            return function(*every)

        return run

    assert_gradients_as_exact_as_torch(
        of_learnt(our_block(shortcut, training)),
        of_learnt(block_of(reference.conv2d, of_reference, shortcut, training)),
        of_learnt(block_of(torch_functional.conv2d, of_torch, shortcut, training)),
        *(tensors[i] for i in learnt),
    )


@both_modes
def test_a_bottleneck_with_groups(training, backend):
    x = make_tensor((2, 16, 6, 5), seed=1)
    shapes = ((12, 16, 1, 1), (12, 4, 3, 3), (16, 12, 1, 1))
    weights = [make_tensor(shape, seed=2 + i).mul_(0.5) for i, shape in enumerate(shapes)]
    norms = [make_norm(shape[0], seed=10 * i + 10) for i, shape in enumerate(shapes)]
    geometries = ({}, {"padding": 1, "groups": 3}, {})

    def ours(x, *weights):
        stages = [
            F.ConvBN(weight, None, *(t.to(x.dtype) for t in norm), training, **geometry)
            for weight, norm, geometry in zip(weights, norms, geometries, strict=True)
        ]
        return F.residual_block(x, stages)

    def of(layer):
        def run(x, *weights):
            y = x
            for i, (weight, norm, geometry) in enumerate(zip(weights, norms, geometries, strict=True)):
                norm = [t.to(x.dtype) if x.dtype == torch.float64 else t.clone() for t in norm]
                y = layer(y, weight, None, *norm, x if i == 2 else None, training=training, **geometry)
            return y

        return run

    assert_gradients_as_exact_as_torch(ours, of(of_reference), of(of_torch), x, *weights)


def test_a_frozen_norm_among_those_that_learn(backend):
    tensors = make_block("identity")

    def block(first, second):
        x, weight1, bias1, weight2, bias2, _, _, *norms = (t.clone() for t in tensors)
        stages = (
            F.ConvBN(weight1, bias1, *norms[:4], first, padding=1),
            F.ConvBN(weight2, bias2, *norms[4:8], second, padding=1),
        )
        y = of_torch(x, weight1, bias1, *(t.clone() for t in norms[:4]), training=first, padding=1)
        y = of_torch(y, weight2, bias2, *(t.clone() for t in norms[4:8]), x, training=second, padding=1)
        return F.residual_block(x, stages), y

    torch.testing.assert_close(*block(True, False))
    torch.testing.assert_close(*block(False, True))


def test_padding_by_name_with_an_odd_zero(backend):
    x, norms = make_tensor((2, 4, 6, 5), seed=1), [make_norm(4, seed=10), make_norm(4, seed=20)]
    weight = make_tensor((4, 4, 2, 4), seed=2).mul_(0.2)
    stages = [F.ConvBN(weight, None, *norm, True, padding="same") for norm in norms]
    y = x
    for norm in norms:
        y = of_torch(y, weight, None, *(t.clone() for t in norm), training=True, padding="same")
    torch.testing.assert_close(F.conv_bn_relu_chain(x, stages), y)


@both_modes
def test_residuals_of_another_layout(training, backend):
    tensors, geometry = make_case(CASES["3x3"])
    residual = tensors[7]
    expected = F.conv_bn_relu(*tensors, training=training, **geometry)
    padded = torch.zeros(*residual.shape[:3], 8)[..., : residual.shape[3]].copy_(residual)
    for other in (residual.contiguous(memory_format=torch.channels_last), padded, residual.mT.contiguous().mT):
        output = F.conv_bn_relu(*tensors[:7], other, training=training, **geometry)
        assert output.stride() == expected.stride()
        torch.testing.assert_close(output, expected)


@both_modes
@both_layouts
def test_nan_in_one_channel_stays_there(channels_last, training, backend):
    tensors, geometry = make_case(CASES["3x3"], channels_last=channels_last)
    tensors[1][2, 1, 0, 0] = torch.nan
    output = F.conv_bn_relu(*tensors, training=training, **geometry)
    assert output[:, 2].isnan().any()
    others = [k for k in range(output.shape[1]) if k != 2]
    assert not output[:, others].isnan().any()
    leaves = [t.clone().requires_grad_(i < 5) for i, t in enumerate(tensors)]
    F.conv_bn_relu(*leaves, training=training, **geometry).sum().backward()
    assert leaves[3].grad[2].isnan()
    for i in (1, 3, 4):
        assert not leaves[i].grad[others].isnan().any()


@both_modes
def test_empty_batch(training, backend):
    tensors, geometry = make_case(CASES["3x3"])
    tensors[0], tensors[7] = tensors[0][:0].requires_grad_(), tensors[7][:0]
    before = tensors[5].clone()
    output = F.conv_bn_relu(*tensors, training=training, **geometry)
    assert output.shape == (0, 18, 7, 6)
    output.sum().backward()
    assert torch.equal(tensors[5], before)


def test_fold_batch_norm():
    tensors, geometry = make_case(CASES["3x3"], torch.float64)
    x, weight, bias, *norm, residual = tensors
    folded = F.fold_batch_norm(weight, bias, *norm)
    torch.testing.assert_close(
        F.conv_relu(x, *folded, residual, **geometry), of_torch(x, weight, bias, *norm, residual, **geometry)
    )
    folded = F.fold_batch_norm(weight, None, None, None, *norm[2:])
    expected = of_torch(x, weight, None, None, None, *norm[2:], relu=False, **geometry)
    torch.testing.assert_close(F.conv_relu(x, *folded, relu=False, **geometry), expected)


@both_modes
@BLOCKS
def test_derivatives_of_every_order(shortcut, training, backend):
    tensors = make_block(shortcut, torch.float64, shape=(2, 2, 4, 3))
    learnt = [0, 1, 3, 5, 7, 8, 11, 12]
    block = our_block(shortcut, training)

    def run(*leaves):
        every = [t.clone() for t in tensors]
        for i, leaf in zip(learnt, leaves, strict=True):
            every[i] = leaf
        return block(*every)

    leaves = [tensors[i].requires_grad_() for i in learnt]
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)
