"""The norm folded into the convolution's weight in evaluation: kept, and made anew when a value changes."""

import copy
import gc

import pytest
import torch

import cnnext
import cnnext.functional as F
from cnnext import nn
from cnnext.nn import folding


@pytest.fixture(autouse=True)
def our_kernels():
    with cnnext.backend("cpu"), torch.no_grad():
        yield


@pytest.fixture(name="folds")
def count_folds(monkeypatch):
    seen, fold = [], F.fold_batch_norm
    monkeypatch.setattr(F, "fold_batch_norm", lambda *arguments: seen.append(1) or fold(*arguments))
    return seen


def make():
    torch.manual_seed(0)
    layer = nn.ConvBNReLU(3, 4, 3, bias=True)
    layer(torch.randn(4, 3, 5, 5))
    return layer.eval()


def unfused(layer, x):
    return torch.relu(layer.bn(layer.conv(x)))


def replace_parameter(layer):
    layer.bn.weight = torch.nn.Parameter(torch.rand(4))


def train_a_step(layer):
    with torch.enable_grad():
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
        layer(torch.randn(2, 3, 5, 5)).square().sum().backward()
        optimizer.step()


def learn_statistics(layer):
    layer.train()(torch.randn(2, 3, 5, 5))
    layer.eval()


def change_eps(layer):
    layer.bn.eps = 0.5


CHANGES = {
    "in place": lambda layer: layer.conv.weight.mul_(2),
    "through data": lambda layer: layer.conv.weight.data.mul_(2),
    "a buffer through data": lambda layer: layer.bn.running_var.data.mul_(2),
    "data assigned": lambda layer: setattr(layer.bn.bias, "data", torch.ones(4)),
    "buffer": lambda layer: layer.bn.running_mean.add_(1),
    "loaded": lambda layer: layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()}),
    "loaded by assignment": lambda layer: layer.load_state_dict(
        {k: v + 1 for k, v in layer.state_dict().items()}, assign=True
    ),
    "other parameter": replace_parameter,
    "optimizer": train_a_step,
    "statistics": learn_statistics,
    "eps": change_eps,
    "layout": lambda layer: layer.to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("change", CHANGES)
def test_folded_values_are_kept_until_a_value_changes(change, folds):
    layer, x = make(), torch.randn(2, 3, 5, 5)
    for _ in range(3):
        torch.testing.assert_close(layer(x), unfused(layer, x))
    assert len(folds) == 1
    CHANGES[change](layer)
    torch.testing.assert_close(layer(x), unfused(layer, x))
    assert len(folds) == 2
    layer(x)
    assert len(folds) == 2


def test_a_weight_that_is_not_dense(folds):
    layer, x = make(), torch.randn(2, 3, 5, 5)
    layer.conv.weight = torch.nn.Parameter(torch.randn(4, 3, 3, 6)[..., ::2])
    layer(x), layer(x)
    assert len(folds) == 1
    layer.conv.weight.data.mul_(2)
    torch.testing.assert_close(layer(x), unfused(layer, x))


def test_another_dtype(folds):
    layer, x = make(), torch.randn(2, 3, 5, 5)
    layer(x), layer.double()
    torch.testing.assert_close(layer(x.double()), unfused(layer, x.double()))


def test_copies_fold_for_themselves(folds):
    layer, x = make(), torch.randn(2, 3, 5, 5)
    layer(x)
    twin = copy.deepcopy(layer)
    twin.conv.weight.mul_(2)
    torch.testing.assert_close(twin(x), unfused(twin, x))
    torch.testing.assert_close(layer(x), unfused(layer, x))
    assert len(folds) == 2


def test_nothing_is_kept_where_gradients_flow():
    layer, x = make(), torch.randn(2, 3, 5, 5)
    with torch.enable_grad():
        layer(x).sum().backward()
        assert layer.bn not in folding._entries
        assert layer.conv.weight.grad.abs().sum() > 0
        layer.requires_grad_(False)
        layer(x)
        assert layer.bn in folding._entries


def test_nothing_is_kept_in_training_or_after_the_layer():
    layer, x = make(), torch.randn(2, 3, 5, 5)
    layer(x)
    assert layer.bn in folding._entries
    layer.train()(x)
    assert layer.bn not in folding._entries
    layer.eval()(x)
    count = len(folding._entries)
    del layer
    gc.collect()
    assert len(folding._entries) == count - 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    layer, x = make(), torch.randn(2, 3, 5, 5)
    with torch.autocast("cpu", dtype=dtype):
        y = layer(x)
        conv, norm = layer.conv, layer.bn
        folded_now = F.fold_batch_norm(
            conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var
        )
        expected = F.conv_relu(x, *folded_now)
    assert y.dtype == dtype
    assert torch.equal(y, expected)
    torch.testing.assert_close(layer(x), unfused(layer, x))  # what was folded is of float32 all the same


def test_inference_mode(folds):
    layer, x = make(), torch.randn(2, 3, 5, 5)
    with torch.inference_mode():
        y = layer(x)
    torch.testing.assert_close(layer(x), y)
    assert len(folds) == 1


def test_torch_func_sees_the_parameters():
    layer, x = make(), torch.randn(2, 3, 5, 5)
    values = {name: value.detach() for name, value in layer.named_parameters()}
    gradients = torch.func.grad(lambda p: torch.func.functional_call(layer, p, x).square().sum())(values)
    expected = torch.func.grad(
        lambda p: torch.func.functional_call(_Apart(layer), {f"layer.{k}": v for k, v in p.items()}, x).square().sum()
    )(values)
    torch.testing.assert_close(gradients, expected)


class _Apart(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return unfused(self.layer, x)
