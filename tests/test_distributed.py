"""The fused layer with the statistics of several processes' batches, against one process with all of them."""

import copy

import pytest
import ranks
import torch
from fusible import CHAINS, Net

import cnnext
import cnnext.functional as F
from cnnext import nn
from cnnext.testing import assert_as_exact_as_torch

SLOW = ("empty", "of_torch", "narrow", "nan", "channels", "stranger", "single_value", "two_values", "network", "norm")


@pytest.fixture(scope="module", name="results")
def run_slow_cases(tmp_path_factory):
    return ranks.run(SLOW, tmp_path_factory.mktemp("ranks"))


def joined(results):
    """What the processes have found, as if it were one: rows in a row, gradients of parameters added up."""
    parts = {name: [result[name] for result in results] for name in results[0]}
    whole = {}
    for name, values in parts.items():
        if name in ranks.ROWS or name == "output":
            whole[name] = torch.cat(values)
        elif name in ranks.LEARNT:
            whole[name] = sum(values)
        else:
            assert torch.equal(values[0], values[1]), f"{name} differs between the processes"
            whole[name] = values[0]
    return whole


def expected(dtype=torch.float64):
    with cnnext.backend("cpu"):
        return ranks.layer(ranks.tensors(dtype))


def test_two_processes_with_unequal_parts_are_one_with_the_whole(tmp_path):
    torch.testing.assert_close(joined(ranks.run(["unequal"], tmp_path)["unequal"]), expected())


@pytest.mark.slow
@pytest.mark.parametrize("case", ["empty", "of_torch"])
def test_an_empty_part_and_torchs_layers(case, results):
    torch.testing.assert_close(joined(results[case]), expected())


@pytest.mark.slow
def test_bfloat16(results):
    found = joined(results["narrow"])

    def one_by_one(input, weight, bias, bn_weight, bn_bias, mean, var, residual):
        mean, var = mean.clone(), var.clone()
        y = torch.nn.functional.conv2d(input, weight, bias)
        y = torch.nn.functional.batch_norm(y, mean, var, bn_weight, bn_bias, True, 0.3, 0.1)
        return torch.relu(y + residual), mean, var

    ours = [found[name] for name in ("output", "running_mean", "running_var")]
    made = {name: tensor for name, tensor in ranks.narrow_tensors().items() if name != "grad"}
    assert_as_exact_as_torch(tuple(ours), one_by_one, one_by_one, *made.values())


@pytest.mark.slow
def test_nan_stays_in_its_channel(results):
    for result in results["nan"]:
        for name in ("output", "bn_weight", "running_mean", "running_var"):
            values = result[name].transpose(0, 1) if name == "output" else result[name]
            assert values[2].isnan().any(), name
            assert not values[[0, 1, 3, 4, 5]].isnan().any(), name


@pytest.mark.slow
def test_refusals(results):
    text = "RuntimeError: expected one number of channels in every process of the group, but got [6, 5] by rank"
    assert results["channels"] == [text, text]
    inside, outside = results["stranger"]
    assert isinstance(inside, dict)
    assert outside == "RuntimeError: expected a process group with this process in it, but rank 1 is not"
    for text in results["single_value"]:
        assert "ValueError: Expected more than 1 value per channel when training, got input size" in text


@pytest.mark.slow
def test_one_value_per_process_is_enough(results):
    outputs = results["two_values"]
    assert all(output.shape == (1, 3, 1, 1) for output in outputs)
    torch.testing.assert_close(sum((output > 0).int() for output in outputs), torch.ones(1, 3, 1, 1, dtype=torch.int))


@pytest.mark.slow
def test_a_network_that_is_swapped_and_fused(results):
    torch.manual_seed(0)
    model = Net().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for images in ranks.images_of_steps():
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
    for result in results["network"]:
        assert result["fused"] == CHAINS[Net]
        torch.testing.assert_close(result["state"], model.state_dict())
        torch.testing.assert_close(result["scores"], copy.deepcopy(model).eval()(images).detach())


@pytest.mark.slow
def test_the_norm_alone(results):
    first, second = results["norm"]
    for shape, *parts in zip(((4, 3), (4, 3, 5), (4, 3, 5, 2), (4, 3, 2, 2, 3)), first, second, strict=True):
        (y1, x1, w1, v1), (y2, x2, w2, v2) = parts
        assert torch.equal(v1, v2)
        assert torch.cat([y1, y2]).shape == torch.cat([x1, x2]).shape == shape
    random = torch.Generator().manual_seed(0)
    for parts in zip(first, second, strict=True):
        (y1, x1, w1, v1), (y2, x2, w2, _) = parts
        x = torch.randn(torch.cat([y1, y2]).shape, generator=random, dtype=torch.float64).requires_grad_()
        mean, var = (torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
        weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
        y = torch.nn.functional.batch_norm(x, mean, var, weight, None, True, 1.0)
        y.square().mul(torch.arange(3).view(1, 3, *[1] * (x.dim() - 2))).sum().backward()
        for ours, theirs in (
            (torch.cat([y1, y2]), y),
            (torch.cat([x1, x2]), x.grad),
            (w1 + w2, weight.grad),
            (v1, var),
        ):
            torch.testing.assert_close(ours, theirs.detach())


def test_one_process_alone_needs_no_group():
    layer, x = nn.ConvBNReLU(2, 3, 1), torch.randn(2, 2, 4, 4)
    twin = copy.deepcopy(layer)
    layer.bn = nn.SyncBatchNorm(3)
    with cnnext.backend("cpu"):
        for training in (True, False):
            assert torch.equal(layer.train(training)(x), twin.train(training)(x))
    assert type(nn.BasicBlock(4, 4, norm_layer=torch.nn.SyncBatchNorm).bn2) is nn.SyncBatchNorm
    with pytest.raises(ValueError, match="SyncBatchNorm number of input channels should be non-zero"):
        nn.SyncBatchNorm(3)(torch.ones(2, 0, 2, 2))


def test_swap_takes_synchronised_norms():
    net, x = torch.nn.SyncBatchNorm.convert_sync_batchnorm(Net()), torch.randn(2, 3, 8, 8)
    twin = copy.deepcopy(net)
    report = cnnext.swap(net, fuse=True)
    assert report.swapped["bn1"] == "cnnext.nn.SyncBatchNorm"
    assert report.fused == CHAINS[Net]
    torch.testing.assert_close(net.eval()(x), twin.eval()(x))
    cnnext.unswap(net)
    assert type(net.bn1) is torch.nn.SyncBatchNorm


def test_a_group_is_of_no_account_in_evaluation():
    made = ranks.tensors()
    del made["grad"]
    assert torch.equal(F.conv_bn_relu(**made, process_group=object()), F.conv_bn_relu(**made))
