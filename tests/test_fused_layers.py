"""Layers and blocks on the fused ops against the same modules called one after the other."""

import copy
import io

import pytest
import torch
from fusible import record_chains

import cnnext
from cnnext import nn


@pytest.fixture(autouse=True)
def our_kernels():
    with cnnext.backend("cpu"):
        yield


@pytest.fixture(name="chains")
def recorded_chains(monkeypatch):
    return record_chains(monkeypatch)


def downsample(channels, out, stride):
    return torch.nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


BLOCKS = {
    "ConvBNReLU": lambda: nn.ConvBNReLU(8, 6, 3, stride=2, padding=1),
    "ConvBNReLU, more weights than results": lambda: nn.ConvBNReLU(8, 40, 3),
    "ConvBN": lambda: nn.ConvBNReLU(8, 6, (3, 2), padding="same", bias=True, relu=False),
    "BasicBlock": lambda: nn.BasicBlock(8, 8),
    "BasicBlock with downsample": lambda: nn.BasicBlock(8, 6, 2, downsample(8, 6, 2)),
    "Bottleneck": lambda: nn.Bottleneck(8, 2),
    "ResNeXt bottleneck": lambda: nn.Bottleneck(8, 4, 2, downsample(8, 16, 2), groups=4, base_width=32),
    "Residual": lambda: nn.Residual(6, True, 2, in_channels=8),
    "ResNeXtBlock": lambda: nn.ResNeXtBlock(8, 2, 0.5, in_channels=8),
}
STAGES = {
    "ConvBNReLU": [1],
    "ConvBNReLU, more weights than results": [1],
    "ConvBN": [1],
    "BasicBlock": [2],
    "BasicBlock with downsample": [1, 2],
}
STAGES |= {"Bottleneck": [3], "ResNeXt bottleneck": [1, 3], "Residual": [2], "ResNeXtBlock": [3]}
every_block = pytest.mark.parametrize("name", BLOCKS)


def make(name, dtype=torch.float64):
    torch.manual_seed(0)
    block = BLOCKS[name]().to(dtype)
    for module in block.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return block


def apart(block):
    """A copy whose modules are called one by one, for each has a hook."""
    twin = copy.deepcopy(block)
    for module in twin.modules():
        module.register_forward_hook(lambda *_: None)
    return twin


def step(block, x):
    x = x.clone().requires_grad_()
    y = block(x)
    y.square().sum().backward()
    return y, x.grad, [parameter.grad for parameter in block.parameters()], dict(block.named_buffers())


@every_block
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_block_is_its_modules_one_by_one(name, training, layout, chains):
    block = make(name).train(training)
    twin = apart(block)
    x = torch.randn(3, 8, 6, 5, dtype=torch.float64).contiguous(memory_format=layout)
    expected = step(twin, x)
    assert not chains
    torch.testing.assert_close(step(block, x), expected)
    assert chains == STAGES[name]
    with torch.no_grad():
        torch.testing.assert_close(block(x), twin(x))
    assert torch.equal(copy.deepcopy(block)(x), block(x))


@every_block
def test_block_is_copied_and_pickled_after_evaluation(name):
    block, x, file = make(name).eval(), torch.randn(2, 8, 6, 5, dtype=torch.float64), io.BytesIO()
    with torch.no_grad():
        y = block(x)
        torch.save(block, file)
        file.seek(0)
        for twin in (copy.deepcopy(block), torch.load(file, weights_only=False)):
            assert torch.equal(twin(x), y)
            twin.load_state_dict(make(name).state_dict())


NAMES = {
    "ConvBNReLU": "conv.weight bn",
    "BasicBlock with downsample": "conv1.weight bn1 conv2.weight bn2 downsample.0.weight downsample.1",
    "Bottleneck": "conv1.weight bn1 conv2.weight bn2 conv3.weight bn3",
    "Residual": "conv1.weight conv1.bias conv2.weight conv2.bias conv3.weight conv3.bias bn1 bn2",
}


@pytest.mark.parametrize("name", NAMES)
def test_parameters_have_the_names_of_torchvision_and_the_book(name):
    of_norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = []
    for part in NAMES[name].split():
        expected += [part] if part.endswith(("weight", "bias")) else [f"{part}.{value}" for value in of_norm]
    assert sorted(BLOCKS[name]().state_dict()) == sorted(expected)


def test_a_checkpoint_of_torchs_layers_loads():
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = (torch.nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2))
            self.bn1, self.bn2 = torch.nn.BatchNorm2d(4), torch.nn.BatchNorm2d(4)

        def forward(self, x):
            return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + x)

    theirs, ours, x = Block().eval(), nn.BasicBlock(4, 4).eval(), torch.randn(2, 4, 5, 5)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_checkpoint_of_a_numbered_sequence_loads():
    numbered = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4)))
    ours, x = torch.nn.Sequential(nn.ConvBNReLU(3, 4, 3)).eval(), torch.randn(2, 3, 5, 5)
    ours.load_state_dict(numbered.state_dict())
    torch.testing.assert_close(ours(x), torch.relu(numbered.eval()(x)))
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"0.2.weight\""):
        ours.load_state_dict(numbered.state_dict() | {"0.2.weight": x})


def test_a_lazy_layer_learns_its_channels(chains):
    layer, x = nn.ConvBNReLU(None, 4, 3), torch.randn(2, 3, 5, 5)
    layer(x)
    assert not chains
    assert layer(x).shape == (2, 4, 3, 3)
    assert chains == [1]


def test_what_is_broadcast_is_added_as_torch_does(chains):
    block, x = nn.BasicBlock(1, 4), torch.randn(2, 1, 5, 5)
    torch.testing.assert_close(apart(block)(x), block(x))
    assert chains == [2]
    with pytest.raises(RuntimeError, match="must match the size of tensor"):
        nn.BasicBlock(2, 4)(torch.randn(2, 2, 5, 5))


def test_other_modules_in_a_block_are_called(chains):
    block = nn.BasicBlock(4, 4, norm_layer=lambda channels: torch.nn.GroupNorm(2, channels))
    assert block(torch.randn(2, 4, 5, 5)).shape == (2, 4, 5, 5)
    assert not chains
    assert type(nn.BasicBlock(4, 4, norm_layer=torch.nn.BatchNorm2d).bn1) is nn.BatchNorm2d


def test_a_hook_on_the_inside_sees_its_call(chains):
    block, x, seen = nn.BasicBlock(4, 4), torch.randn(2, 4, 5, 5), []
    handle = block.bn1.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    block(x)
    assert seen == [(2, 4, 5, 5)]
    handle.remove()
    block(x)
    assert len(seen) == 1
    assert chains == [2]


def test_wrong_arguments_are_torchs_errors():
    for layer in (nn.ConvBNReLU(3, 4, 3), nn.BasicBlock(3, 4)):
        with pytest.raises(RuntimeError):
            layer(torch.randn(2, 5, 8, 8))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        nn.ConvBNReLU(3, 4, 3)(torch.randn(1, 3, 3, 3))
    with pytest.raises(ValueError, match="groups=1 and base_width=64 only, but got 2 and 64"):
        nn.BasicBlock(4, 4, groups=2)
    with pytest.raises(NotImplementedError, match="dilation=1 only, but got 2"):
        nn.BasicBlock(4, 4, dilation=2)


@pytest.mark.parametrize("training", [True, False])
def test_nan_stays_in_its_channel(training):
    layer, x = nn.ConvBNReLU(2, 2, 1, groups=2).train(training), torch.randn(2, 2, 4, 4)
    x[0, 1, 2, 2] = float("nan")
    y = layer(x)
    assert not y[:, 0].isnan().any()
    assert y[:, 1].isnan().all() if training else y[:, 1].isnan().sum() == 1


def test_without_running_statistics_the_batchs_are_used_as_in_torch():
    layer, x = nn.ConvBNReLU(2, 2, 1).eval(), torch.randn(2, 2, 4, 4)
    layer.bn = nn.BatchNorm2d(2, track_running_stats=False)
    torch.testing.assert_close(layer.eval()(x), torch.relu(layer.bn(layer.conv(x))))


@pytest.mark.parametrize("training", [True, False])
def test_block_is_compiled_without_a_graph_break(training):
    block, x = make("Bottleneck", torch.float32).train(training), torch.randn(2, 8, 6, 5)
    expected = copy.deepcopy(block)(x)
    torch.testing.assert_close(torch.compile(block, backend="aot_eager", fullgraph=True)(x), expected)
