import copy
import io

import pytest
import torch

import cnnext
import cnnext.functional as F
from cnnext import nn

PAIRS = [
    (nn.Conv2d, torch.nn.Conv2d, (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}),
    (nn.Conv2d, torch.nn.Conv2d, (4, 6, (2, 3)), {"padding": "same", "bias": False}),
    *(
        (nn.Conv2d, torch.nn.Conv2d, (4, 6, 3), {"padding": (2, 1), "padding_mode": mode})
        for mode in ("reflect", "replicate", "circular")
    ),
    (nn.ConvTranspose2d, torch.nn.ConvTranspose2d, (4, 6, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
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


def test_lazy_norm_runs_on_our_kernels_from_its_first_call(monkeypatch):
    calls = []
    monkeypatch.setattr(F, "batch_norm", lambda *arguments: calls.append(arguments) or arguments[0])
    nn.LazyBatchNorm2d()(torch.randn(2, 4, 9, 8))
    assert len(calls) == 1


def test_lazy_layers_are_ours():
    assert isinstance(nn.LazyConv2d(6, 3), (nn.Conv2d, torch.nn.LazyConv2d))
    for lazy, shape, kind in (
        (nn.LazyConv1d(6, 3), (2, 4, 9), nn.Conv1d),
        (nn.LazyConvTranspose2d(6, 3), (2, 4, 9, 8), nn.ConvTranspose2d),
    ):
        lazy(torch.randn(shape))
        assert type(lazy) is kind


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [2, "same"])
def test_conv1d_pads_as_torch(mode, padding):
    layer = nn.Conv1d(3, 4, 4, padding=padding, padding_mode=mode)
    peer = torch.nn.Conv1d(3, 4, 4, padding=padding, padding_mode=mode)
    peer.load_state_dict(layer.state_dict())
    sound = torch.randn(2, 3, 20)
    torch.testing.assert_close(layer(sound), peer(sound))


def test_conv_transpose2d_pads_with_zeros_only():
    layer = nn.ConvTranspose2d(1, 1, 3)
    layer.padding_mode = "reflect"
    with pytest.raises(ValueError, match="padding_mode='zeros' only, but got 'reflect'"):
        layer(torch.ones(1, 1, 3, 3))


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


@pytest.mark.parametrize("block", [nn.Residual, lambda *args, **kw: nn.ResNeXtBlock(args[0], 2, 0.5, *args[1:], **kw)])
@pytest.mark.parametrize("known", [False, True])
def test_blocks_are_the_same_over_torchs_layers(block, known):
    channels = {"in_channels": 4} if known else {}
    ours, theirs = block(8, True, 2, **channels), block(8, True, 2, layers=torch.nn, **channels)
    image = torch.randn(2, 4, 9, 8)
    if not known:
        ours(image), theirs(image)
    theirs.load_state_dict(ours.state_dict())
    ours.train(), theirs.train()
    torch.testing.assert_close(ours(image), theirs(image))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_corr2d_layer_learns():
    layer = nn.Corr2d(2)
    assert layer.weight.shape == (2, 2)
    assert repr(layer) == "Corr2d(kernel_size=(2, 2))"
    layer(torch.ones(4, 5)).sum().backward()
    assert layer.weight.grad.tolist() == [[12, 12], [12, 12]]
    assert layer.bias.grad.tolist() == [12]
    with pytest.raises(TypeError, match="`kernel_size` must be an int or a pair of ints, but got '2'"):
        nn.Corr2d("2")


def test_filters():
    ramp = torch.arange(5.0).expand(4, 5)
    assert (F.corr2d(ramp, nn.filters.SOBEL_X) == 8).all()
    assert (F.corr2d(ramp, nn.filters.SOBEL_Y) == 0).all()
    torch.testing.assert_close(nn.filters.sobel_magnitude(3 * ramp.double()), torch.full((2, 3), 24.0).double())
    torch.testing.assert_close(F.corr2d(ramp, nn.filters.box((2, 3))), ramp[:3, 1:4])
    torch.testing.assert_close(F.corr2d(ramp, nn.filters.SHARPEN), ramp[:2, 1:4])
    spot = torch.zeros(3, 3)
    spot[1, 1] = 1
    assert F.corr2d(spot, nn.filters.SHARPEN).item() == 5
    flat = torch.ones(4, 5, requires_grad=True)
    nn.filters.sobel_magnitude(flat).sum().backward()
    assert (flat.grad == 0).all()
    with pytest.raises(ValueError, match="`size` must be at least 1, but got 0"):
        nn.filters.box(0)
    with pytest.raises(TypeError, match="`input` must be a torch.Tensor"):
        nn.filters.sobel_magnitude([[1.0]])


@pytest.mark.parametrize(
    ("ours", "theirs", "shape"),
    [
        (nn.Conv2d(3, 4, 3), torch.nn.Conv2d(3, 4, 3), (3, 8)),
        (nn.Conv2d(3, 4, 3), torch.nn.Conv2d(3, 4, 3), (1, 2, 8, 8)),
        (nn.Conv2d(3, 4, 3), torch.nn.Conv2d(3, 4, 3), (1, 3, 2, 8)),
        (nn.Conv2d(3, 4, 3, dtype=torch.float64), torch.nn.Conv2d(3, 4, 3, dtype=torch.float64), (1, 3, 8, 8)),
        (nn.MaxPool2d(3, padding=2), torch.nn.MaxPool2d(3, padding=2), (1, 3, 8, 8)),
        (nn.MaxPool2d(3, stride=-1), torch.nn.MaxPool2d(3, stride=-1), (1, 3, 8, 8)),
        (nn.AvgPool2d(0), torch.nn.AvgPool2d(0), (1, 3, 8, 8)),
        (nn.AvgPool2d(9), torch.nn.AvgPool2d(9), (1, 3, 8, 8)),
        (nn.AdaptiveAvgPool2d(-1), torch.nn.AdaptiveAvgPool2d(-1), (1, 3, 8, 8)),
        (nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3), (2, 4, 8, 8)),
    ],
)
def test_what_torchs_layer_refuses_ours_refuses(ours, theirs, shape):
    with pytest.raises((RuntimeError, ValueError)) as refusal:
        theirs(torch.ones(shape))
    with pytest.raises(refusal.type):
        ours(torch.ones(shape))


@pytest.mark.parametrize("layer", [nn.Conv2d(1, 1, 1), nn.MaxPool2d(1), nn.AvgPool2d(1), nn.AdaptiveAvgPool2d(1)])
def test_what_is_no_tensor_is_refused(layer):
    with pytest.raises(TypeError, match="`input` must be a torch.Tensor, but got list"):
        layer([[1.0]])


def test_wrong_inputs_are_torchs_errors():
    with pytest.raises(ValueError, match="expected 4D input"):
        nn.BatchNorm2d(3)(torch.ones(2, 3))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        nn.BatchNorm2d(3)(torch.ones(1, 3, 1, 1))
    with pytest.raises(ValueError, match="groups=3 must divide"):
        nn.ResNeXtBlock(32, 3, 1)
    with pytest.raises(ValueError, match="groups=1 must divide the bottleneck's 0 channels"):
        nn.ResNeXtBlock(32, 1, 0.01)
