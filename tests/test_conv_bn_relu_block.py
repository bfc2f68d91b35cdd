"""Residual blocks of the fused functions against their definitions, one after the other, in float64."""

import pytest
import torch
import torch.nn.functional as torch_functional
from test_conv_bn_relu import both_layouts, both_modes, make_norm, of_reference, of_torch

import cnnext.functional as F
from cnnext import reference
from cnnext.testing import assert_as_exact_as_torch, assert_gradients_as_exact_as_torch, make_tensor

OP = ("conv2d", "batch_norm")
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
