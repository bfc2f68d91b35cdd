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
    # Channels enough: over five, torch's largest error of one draw is half the usual one at times.
    "dilated, same": ((1, 3, 8, 7), 37, 3, {"padding": "same", "dilation": 2}),
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
