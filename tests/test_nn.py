import copy
import io

import pytest
import torch

import cnnext
from cnnext import nn

PAIRS = [
    (nn.Conv2d, torch.nn.Conv2d, (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}),
    (nn.Conv2d, torch.nn.Conv2d, (4, 6, (2, 3)), {"padding": "same", "bias": False}),
    *(
        (nn.Conv2d, torch.nn.Conv2d, (4, 6, 3), {"padding": (2, 1), "padding_mode": mode})
        for mode in ("reflect", "replicate", "circular")
    ),
    (nn.MaxPool2d, torch.nn.MaxPool2d, (3,), {"stride": 2, "padding": 1, "ceil_mode": True}),
    (nn.AvgPool2d, torch.nn.AvgPool2d, (3,), {"stride": 2, "padding": 1, "count_include_pad": False}),
    (nn.AdaptiveAvgPool2d, torch.nn.AdaptiveAvgPool2d, ((3, None),), {}),
    (nn.BatchNorm2d, torch.nn.BatchNorm2d, (4,), {}),
    (nn.BatchNorm2d, torch.nn.BatchNorm2d, (4,), {"momentum": None}),
    (nn.BatchNorm2d, torch.nn.BatchNorm2d, (4,), {"affine": False, "track_running_stats": False}),
]


@pytest.fixture(autouse=True)
def our_kernels():
    with cnnext.backend("cpu"):
        yield


@pytest.mark.parametrize(("ours", "theirs", "arguments", "options"), PAIRS)
def test_layer_is_torchs_with_our_kernels(ours, theirs, arguments, options):
    torch.manual_seed(0)
    layer = ours(*arguments, **options)
    torch.manual_seed(0)
    peer = theirs(*arguments, **options)
    assert isinstance(layer, theirs)
    assert repr(layer) == repr(peer)
    assert list(layer.state_dict()) == list(peer.state_dict())
    for _ in range(2):  # twice: a norm's running statistics move
        image = torch.randn(2, 4, 9, 8)
        torch.testing.assert_close(layer(image), peer(image))
    layer.eval(), peer.eval()
    torch.testing.assert_close(layer(image), peer(image))
    torch.testing.assert_close(layer.state_dict(), peer.state_dict())


@pytest.mark.parametrize(("ours", "theirs", "arguments", "options"), PAIRS)
def test_copies_and_pickles(ours, theirs, arguments, options):
    layer = ours(*arguments, **options).eval()
    image = torch.randn(2, 4, 9, 8)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for twin in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        assert type(twin) is ours
        assert torch.equal(twin(image), layer(image))


def test_max_pool_returns_torchs_indices():
    image = torch.randn(2, 4, 9, 8)
    for ours, theirs in zip(
        nn.MaxPool2d(2, return_indices=True)(image), torch.nn.MaxPool2d(2, return_indices=True)(image), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_lazy_layers_become_ours():
    conv, norm = nn.LazyConv2d(6, 3), nn.LazyBatchNorm2d()
    norm(conv(torch.randn(2, 4, 9, 8)))
    assert type(conv) is nn.Conv2d
    assert type(norm) is nn.BatchNorm2d
    assert conv.weight.shape == (6, 4, 3, 3)


def test_hooks_run():
    layer, seen = nn.Conv2d(1, 1, 1), []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    layer(torch.ones(1, 1, 2, 3))
    assert seen == [(1, 1, 2, 3)]


def test_wrong_inputs_are_torchs_errors():
    with pytest.raises(ValueError, match="expected 4D input"):
        nn.BatchNorm2d(3)(torch.ones(2, 3))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        nn.BatchNorm2d(3)(torch.ones(1, 3, 1, 1))
    with pytest.raises(ValueError, match="groups=3 must divide"):
        nn.ResNeXtBlock(32, 3, 1)
