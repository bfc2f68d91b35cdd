import copy

import pytest
import torch

import cnnext
from cnnext import models, nn


def model():
    shared = torch.nn.Conv2d(4, 4, 3, padding=1)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1),
        torch.nn.BatchNorm2d(4),
        shared,
        torch.nn.Sequential(torch.nn.ReLU(), shared, torch.nn.MaxPool2d(2)),
        torch.nn.AvgPool2d(2),
        torch.nn.AdaptiveAvgPool2d(1),
    )


def test_swapped_model_computes_the_same_with_the_same_objects():
    net = model()
    image = torch.randn(2, 3, 16, 16)
    before = copy.deepcopy(net)
    parameters, modules = list(net.parameters()), list(net.modules())
    report = cnnext.swap(net)
    assert list(report.swapped) == ["0", "1", "2", "3.2", "4", "5"]
    assert not report.left
    assert type(net[0]) is nn.Conv2d
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert all(a is b for a, b in zip(net.modules(), modules, strict=True))
    assert net[2] is net[3][1]
    with cnnext.backend("cpu"):
        torch.testing.assert_close(net(image), before(image))
    torch.testing.assert_close(net.state_dict(), before.state_dict())


def test_unswap_is_the_inverse():
    net = model()
    kinds = [type(module) for module in net.modules()]
    report = cnnext.unswap(net)
    assert not report.swapped
    cnnext.swap(net)
    assert len(cnnext.unswap(net).swapped) == 6
    assert [type(module) for module in net.modules()] == kinds


def test_optimizer_hooks_and_mode_survive():
    net = model().eval()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    seen = []
    net[0].register_forward_hook(lambda *_: seen.append("hook"))
    cnnext.swap(net)
    assert not net[1].training
    start = net[0].weight.clone()
    net(torch.randn(1, 3, 16, 16)).sum().backward()
    optimizer.step()
    assert seen == ["hook"]
    assert not torch.equal(net[0].weight, start)


def test_the_model_itself_may_be_a_layer():
    layer = torch.nn.Conv2d(1, 1, 1)
    assert list(cnnext.swap(layer).swapped) == [""]
    assert type(layer) is nn.Conv2d


def test_lazy_layers_are_swapped_too():
    net = models.LeNet(layers=torch.nn)
    assert len(cnnext.swap(net).swapped) == 4
    net(torch.rand(1, 1, 28, 28))
    assert type(net.net[0]) is nn.Conv2d


class Doubled(torch.nn.Conv2d):
    def forward(self, input):
        return 2 * super().forward(input)


def test_what_is_left_is_listed_with_its_reason():
    replaced = torch.nn.MaxPool2d(2)
    replaced.forward = lambda input: input
    net = torch.nn.ModuleDict(
        {
            "subclass": Doubled(1, 1, 1),
            "parametrized": torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(1, 1, 1)),
            "transposed": torch.nn.ConvTranspose2d(1, 1, 1),
            "replaced": replaced,
            "complex": torch.nn.Conv2d(1, 1, 1, dtype=torch.complex64),
        }
    )
    report = cnnext.swap(net)
    assert not report.swapped
    words = {"subclass": "may compute otherwise", "parametrized": "parametrized", "transposed": "no layer for"}
    words |= {"replaced": "forward method was replaced", "complex": "complex"}
    for name, word in words.items():
        assert word in report.left[name]
        assert f"{name}: left, " in str(report)


def test_refusal():
    with pytest.raises(TypeError, match="`model` must be a torch.nn.Module, but got int: 3"):
        cnnext.swap(3)
