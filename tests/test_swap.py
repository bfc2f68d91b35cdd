import copy

import pytest
import torch

import cnnext
from cnnext import models, nn
from cnnext.nn.swap import OURS


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


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_what_is_left_is_listed_with_its_reason():
    replaced = torch.nn.MaxPool2d(2)
    replaced.forward = lambda input: input
    net = torch.nn.ModuleDict(
        {
            "subclass": Doubled(1, 1, 1),
            "parametrized": torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(1, 1, 1)),
            "three": torch.nn.Conv3d(1, 1, 1),
            "norm": torch.nn.BatchNorm1d(1),
            "replaced": replaced,
            "complex": torch.nn.Conv2d(1, 1, 1, dtype=torch.complex64),
            "scripted": torch.jit.script(torch.nn.Conv2d(1, 1, 1)),
            "quantized": torch.ao.nn.quantized.Conv2d(1, 1, 1),
            "linear": torch.nn.Linear(1, 1),
        }
    )
    report = cnnext.swap(net)
    assert not report.swapped
    words = {
        "subclass": "may compute otherwise",
        "parametrized": "parametrized",
        "replaced": "forward method was replaced",
    }
    words |= {"three": "does not swap torch.nn.modules.conv.Conv3d", "norm": "BatchNorm1d"}
    words |= {
        "complex": "no kernels for torch.complex64",
        "scripted": "TorchScript",
        "quantized": "is a quantized layer",
    }
    assert set(report.left) == set(words)
    for name, word in words.items():
        assert word in report.left[name]
        assert f"{name}: left, " in str(report)


def test_the_first_parameter_says_where_a_layer_without_parameters_is():
    net = torch.nn.Sequential(torch.nn.MaxPool2d(2), torch.nn.Linear(1, 1, dtype=torch.complex64))
    assert "no kernels for torch.complex64" in cnnext.swap(net).left["0"]


def test_our_own_layers_are_neither_swapped_nor_left():
    net = models.ResNet(((1, 64),))
    net.add_module("norm", nn.LPPool2d(2, 2))
    assert str(cnnext.swap(net)) == "swapped 0 layers, left 0"


class OurDoubled(nn.Conv2d):
    pass


def test_unswap_leaves_subclasses_of_our_layers():
    net = torch.nn.Sequential(OurDoubled(1, 1, 1), Doubled(1, 1, 1), nn.LazyConv2d(1, 1), nn.Conv1d(1, 1, 1))
    report = cnnext.unswap(net)
    assert report.swapped == {"2": "torch.nn.LazyConv2d", "3": "torch.nn.Conv1d"}
    assert list(report.left) == ["0"]


def test_every_layer_that_is_swapped_comes_back():
    arguments = {"Conv": (1, 1, 1), "LazyConv": (1, 1), "BatchNorm": (1,), "LazyBatchNorm": ()}
    for theirs, ours in OURS.items():
        kind = theirs.__name__.replace("Transpose", "").rstrip("d12")
        layer = theirs(*arguments.get(kind, (1,)))
        cnnext.swap(layer)
        assert type(layer) is ours
        assert repr(layer) == repr(theirs(*arguments.get(kind, (1,))))
        cnnext.unswap(layer)
        assert type(layer) is theirs


def test_weights_are_parametrized_after_the_swap():
    net, image = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3)), torch.ones(1, 1, 5, 5)
    before = net(image)
    cnnext.swap(net)
    torch.nn.utils.parametrizations.weight_norm(net[0])
    assert isinstance(net[0], nn.Conv2d)
    torch.testing.assert_close(net(image), before)
    with torch.no_grad():
        net[0].parametrizations.weight.original0.mul_(2)
    bias = net[0].bias.reshape(-1, 1, 1)
    torch.testing.assert_close(net(image) - bias, 2 * (before - bias))


def test_training_goes_on_where_the_unswapped_model_would():
    torch.manual_seed(0)
    ours = models.ResNet(((1, 64), (1, 32)), layers=torch.nn).init((1, 1, 32, 32)).double()
    theirs = copy.deepcopy(ours)
    cnnext.swap(ours)
    images, labels = torch.rand(4, 1, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    for model in (ours, theirs):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_swapped_model_is_compiled_without_a_graph_break():
    net = model().eval()
    cnnext.swap(net)
    image = torch.randn(2, 3, 16, 16)
    with cnnext.backend("cpu"):
        compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(image), net(image))


def test_refusal():
    with pytest.raises(TypeError, match="`model` must be a torch.nn.Module, but got int: 3"):
        cnnext.swap(3)
