"""The numbers of "Dive into Deep Learning" (1.0.3), chapters 7 and 8, on every backend that is present."""

import itertools

import pytest
import torch

import cnnext.functional as F
from cnnext import models, nn

OP = ("corr2d", "conv2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "batch_norm")
pytestmark = pytest.mark.usefixtures("backend")


def edges():
    image = torch.ones(6, 8)
    image[:, 2:6] = 0
    return image, torch.tensor([[1.0, -1.0]])


def test_7_2_edges_are_found():
    image, kernel = edges()
    expected = torch.tensor([0.0, 1, 0, 0, 0, -1, 0]).expand(6, 7)
    torch.testing.assert_close(F.corr2d(image, kernel), expected, rtol=0, atol=0)
    torch.testing.assert_close(F.corr2d(image.T, kernel), torch.zeros(8, 5), rtol=0, atol=0)


def test_7_2_layer_with_a_bias():
    layer = nn.Corr2d((1, 2))
    with torch.no_grad():
        layer.weight.copy_(edges()[1])
        layer.bias.fill_(0.5)
    assert layer(edges()[0])[0].tolist() == [0.5, 1.5, 0.5, 0.5, 0.5, -0.5, 0.5]
    assert {name for name, _ in layer.named_parameters()} == {"weight", "bias"}


@pytest.mark.parametrize("seed", range(3))
def test_7_2_kernel_is_learnt(seed):
    torch.manual_seed(seed)
    image, kernel = edges()
    target = F.corr2d(image, kernel).reshape(1, 1, 6, 7)
    layer = nn.LazyConv2d(1, kernel_size=(1, 2), bias=False)
    losses = []
    for _ in range(10):
        loss = (layer(image.reshape(1, 1, 6, 8)) - target).square().sum()
        layer.zero_grad()
        loss.backward()
        with torch.no_grad():
            layer.weight -= 3e-2 * layer.weight.grad
        losses.append(loss.item())
    assert losses[-1] < 0.1
    assert (layer.weight.flatten() - torch.tensor([1.0, -1.0])).abs().max() < 0.1


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ({"kernel_size": 3, "padding": 1}, (8, 8)),
        ({"kernel_size": (5, 3), "padding": (2, 1)}, (8, 8)),
        ({"kernel_size": 3, "padding": 1, "stride": 2}, (4, 4)),
        ({"kernel_size": (3, 5), "padding": (0, 1), "stride": (3, 4)}, (2, 2)),
    ],
)
def test_7_3_padding_and_stride(arguments, size):
    assert nn.LazyConv2d(1, **arguments)(torch.rand(1, 1, 8, 8)).shape[2:] == size


def test_7_3_size_of_the_output():
    for size, taps, padding, stride in itertools.product((7, 8), (1, 2, 3, 5), (0, 1, 2), (1, 2, 3)):
        shape = F.conv2d(torch.ones(1, 1, size, size), torch.ones(1, 1, taps, taps), None, stride, padding).shape
        assert shape[2:] == ((size - taps + 2 * padding + stride) // stride,) * 2


def test_7_4_channels():
    image = torch.stack((torch.arange(9.0).reshape(3, 3), torch.arange(1.0, 10).reshape(3, 3)))
    kernel = torch.stack((torch.arange(4.0).reshape(2, 2), torch.arange(1.0, 5).reshape(2, 2)))
    assert F.corr2d_multi_in(image, kernel).tolist() == [[56, 72], [104, 120]]
    out = F.corr2d_multi_in_out(image, torch.stack((kernel, kernel + 1, kernel + 2)))
    assert out.tolist() == [[[56, 72], [104, 120]], [[76, 100], [148, 172]], [[96, 128], [192, 224]]]
    image, kernel = torch.randn(3, 3, 3), torch.randn(2, 3, 1, 1)
    difference = F.corr2d_multi_in_out_1x1(image, kernel) - F.corr2d_multi_in_out(image, kernel)
    assert difference.abs().sum() < 1e-6


def test_7_4_cost_of_a_layer():
    c, k, size, tap = 3, 5, 8, 3
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        nn.Conv2d(c, k, tap, padding=1)(torch.rand(1, c, size, size))
    assert counter.get_total_flops() == 2 * k * size * size * c * tap * tap


def test_7_5_pooling():
    image = torch.arange(9.0).reshape(3, 3)
    assert F.pool2d(image, (2, 2)).tolist() == [[4, 5], [7, 8]]
    assert F.pool2d(image, (2, 2), "avg").tolist() == [[2, 3], [5, 6]]
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert nn.MaxPool2d(3)(image).tolist() == [[[[10]]]]
    assert nn.MaxPool2d(3, padding=1, stride=2)(image).tolist() == [[[[5, 7], [13, 15]]]]
    assert nn.MaxPool2d((2, 3), stride=(2, 3), padding=(0, 1))(image).tolist() == [[[[5, 7], [13, 15]]]]
    both = nn.MaxPool2d(3, padding=1, stride=2)(torch.cat((image, image + 1), 1))
    assert both.tolist() == [[[[5, 7], [13, 15]], [[6, 8], [14, 16]]]]


def test_7_6_lenet(capsys):
    assert models.LeNet().layer_summary((1, 1, 28, 28)) == [
        ("Conv2d", (1, 6, 28, 28)),
        ("Sigmoid", (1, 6, 28, 28)),
        ("AvgPool2d", (1, 6, 14, 14)),
        ("Conv2d", (1, 16, 10, 10)),
        ("Sigmoid", (1, 16, 10, 10)),
        ("AvgPool2d", (1, 16, 5, 5)),
        ("Flatten", (1, 400)),
        ("Linear", (1, 120)),
        ("Sigmoid", (1, 120)),
        ("Linear", (1, 84)),
        ("Sigmoid", (1, 84)),
        ("Linear", (1, 10)),
    ]
    assert "Conv2d output shape:\t torch.Size([1, 6, 28, 28])" in capsys.readouterr().out


def test_8_2_vgg11():
    shapes = [shape for _, shape in models.VGG(models.VGG11).layer_summary((1, 1, 224, 224))]
    assert shapes[:5] == [(1, 64, 112, 112), (1, 128, 56, 56), (1, 256, 28, 28), (1, 512, 14, 14), (1, 512, 7, 7)]
    assert shapes[5:] == [(1, 25088), *[(1, 4096)] * 6, (1, 10)]


def test_8_2_vgg11_has_the_books_parameters():
    model = models.VGG(models.VGG11)
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 224, 224))
    assert sum(parameter.numel() for parameter in model.parameters()) == 128_807_306


def test_8_6_resnet18():
    shapes = [shape for _, shape in models.ResNet18().layer_summary((1, 1, 96, 96))]
    assert shapes == [(1, 64, 24, 24), (1, 64, 24, 24), (1, 128, 12, 12), (1, 256, 6, 6), (1, 512, 3, 3), (1, 10)]


def test_8_6_residual_blocks():
    image = torch.randn(4, 3, 6, 6)
    assert nn.Residual(3)(image).shape == (4, 3, 6, 6)
    assert nn.Residual(6, use_1x1conv=True, strides=2)(image).shape == (4, 6, 3, 3)
    image = torch.randn(4, 32, 96, 96)
    assert nn.ResNeXtBlock(32, 16, 1)(image).shape == (4, 32, 96, 96)


def test_8_6_residual_has_the_books_parameters():
    block = nn.Residual(6, use_1x1conv=True, strides=2)
    block(torch.randn(4, 3, 6, 6))
    names = {name for name, _ in block.named_parameters()}
    layers = ("conv1", "conv2", "conv3", "bn1", "bn2")
    assert names == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
