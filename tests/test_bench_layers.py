"""The layers that tests and benchmarks share: they are those of the networks, and every one keeps the parity rule."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

import cnnext
from cnnext.bench.passes import OURS, check, passes_of, prepare
from cnnext.testing.layer_groups import EDGES, GROUPS
from cnnext.testing.layers import KINDS, TORCH, from_module, layers_of, network_layers
from cnnext.testing.networks import NETWORKS

TORCH_ONLY = {"lenet": (2, 0, 2), "vgg11": (8, 0, 5), "resnet18": (20, 17, 2), "resnet50": (53, 53, 2)}


@pytest.mark.parametrize("name", TORCH_ONLY)
def test_every_layer_of_a_network_is_counted(name):
    counts = Counter()
    for case in network_layers(name, 2):
        counts[case.op] += case.count
    pools = sum(counts[op] for op in ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"))
    assert (counts["conv2d"], counts["batch_norm"], pools) == TORCH_ONLY[name]


def test_resnext50_is_that_of_the_paper():
    layers = network_layers("resnext50", 1)
    assert {dict(case.arguments)["groups"] for case in layers if case.op == "conv2d"} == {1, 32}
    flops = sum(case.count * case.work("forward", torch.float32).flops for case in layers)
    assert flops == pytest.approx(8.4e9, rel=0.03)  # "4.2 billion multiply-adds", table 1 of Xie et al.


def cut(case):
    """A small case of the same kind: one or two images of few pixels, and at most 32 channels in and out."""
    groups = dict(case.arguments).get("groups", 1)
    if case.op == "corr2d":
        return replace(case, input=(40, 40))
    n, c, h, w = case.input
    few = min(c, 32 if groups == 1 else groups)
    weight = case.weight
    if case.op in ("conv2d", "conv_bn_relu"):
        weight = (min(weight[0], 32 if groups == 1 else groups), few // groups, *weight[2:])
    elif case.op == "batch_norm" and weight:
        weight = (few,)
    elif weight:
        few = c
    return replace(case, input=(min(n, 2), few, min(h, 16), min(w, 16)), weight=weight)


@pytest.mark.skipif(cnnext.library.cpu_unavailable is not None, reason="there is no CPU library")
@pytest.mark.parametrize("network", [*NETWORKS, *GROUPS])
def test_every_layer_keeps_the_parity_rule(network):
    cases = GROUPS[network] if network in GROUPS else network_layers(network, 2)
    for case in {cut(case) for case in cases}:
        for which in passes_of(case):
            tensors = case.tensors()
            with cnnext.backend("cpu"):
                ours = prepare(case, which, OURS, tensors)()
            (parities,) = check(case, which, [ours], [tensors])
            assert all(parity.holds for parity in parities), f"{case.shape}, {which}: {parities}"


LAYERS = [
    torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2, bias=False),
    torch.nn.Conv2d(4, 6, (3, 1), padding="same"),
    torch.nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
    torch.nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    torch.nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    torch.nn.AdaptiveAvgPool2d((3, None)),
    torch.nn.BatchNorm2d(4, eps=1e-3),
    torch.nn.BatchNorm2d(4, affine=False),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_a_case_is_the_layer(layer):
    """The same output from the case as from the layer it was made of, given the layer's own parameters."""
    layer = layer.eval()
    case = from_module("x", layer, (2, 4, 9, 11))
    tensors = case.tensors()
    if case.op == "batch_norm":
        tensors[1:] = [layer.running_mean, layer.running_var, layer.weight, layer.bias]
    elif case.weight:
        tensors[1:] = [layer.weight, layer.bias]
    assert torch.equal(case.call(TORCH, tensors), layer(tensors[0]))
    assert case.output == tuple(layer(tensors[0]).shape)
    assert all((a is None) == (b is None) for a, b in zip(case.tensors(), tensors, strict=True))


def test_like_layers_are_counted_and_the_model_stays_as_it_was():
    model = torch.nn.Sequential(*(torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(3)), torch.nn.BatchNorm2d(3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (conv, norm) = layers_of(model, torch.rand(2, 3, 8, 8), "mine")
    assert (conv.name, conv.count, norm.count) == ("mine 0", 3, 1)
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model[0]._forward_pre_hooks


def test_what_has_no_case_is_left_out():
    reflecting = torch.nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")
    assert from_module("", reflecting, (1, 3, 8, 8)) is None
    assert from_module("", torch.nn.ReLU(), (1, 3, 8, 8)) is None
    assert from_module("", torch.nn.MaxPool2d(2), (3, 8, 8)) is None


def test_work_of_a_convolution():
    case = next(case for case in EDGES if case.name == "edge one image")
    forward, step = (case.work(which, torch.float32) for which in ("forward", "step"))
    assert forward.flops == 2 * 56 * 56 * 64 * 64 * 9 and step.flops == 3 * forward.flops
    assert forward.bytes == 4 * (2 * 64 * 56 * 56 + 64 * 64 * 9)
    assert set(KINDS.values()) >= {case.op for case in EDGES} - {"corr2d"}
