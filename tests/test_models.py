import pytest
import torch

import cnnext
from cnnext import models

BUILDERS = [
    (models.LeNet, (2, 1, 28, 28)),
    (lambda **options: models.VGG(((1, 4), (2, 8)), **options), (2, 3, 32, 32)),
    (lambda **options: models.ResNet(((1, 64), (1, 16)), **options), (2, 3, 32, 32)),
    (lambda **options: models.ResNeXt(((1, 32), (1, 64)), **options), (2, 1, 32, 32)),
]


@pytest.mark.parametrize(("build", "shape"), BUILDERS)
def test_same_scores_and_gradients_as_with_torchs_layers(build, shape):
    torch.manual_seed(0)
    ours = build().init(shape).double().eval()
    theirs = build(layers=torch.nn).init(shape).double().eval()
    theirs.load_state_dict(ours.state_dict())
    image = torch.rand(shape, dtype=torch.float64)
    with cnnext.backend("cpu"):
        scores = ours(image)
        scores.square().sum().backward()
    peers = theirs(image)
    peers.square().sum().backward()
    torch.testing.assert_close(scores, peers)
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_summary_leaves_mode_and_running_statistics_alone(capsys):
    net = models.ResNet(((1, 64),)).init((1, 1, 32, 32))
    net.net[0].eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    net.layer_summary((1, 1, 32, 32))
    assert net.training
    assert not net.net[0].training
    torch.testing.assert_close(net.state_dict(), state, rtol=0, atol=0)
    assert len(capsys.readouterr().out.splitlines()) == len(net.net)


def test_summary_takes_the_parameters_dtype_and_no_random_numbers():
    net = models.LeNet().init((1, 1, 28, 28)).double()
    state = torch.get_rng_state()
    assert net.layer_summary((1, 1, 28, 28))[-1] == ("Linear", (1, 10))
    assert torch.equal(torch.get_rng_state(), state)


def test_summary_restores_the_mode_after_an_input_that_does_not_fit():
    net = models.LeNet().init((1, 1, 28, 28))
    with pytest.raises(RuntimeError):
        net.layer_summary((1, 2, 28, 28))
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_lazy_models_take_any_number_of_channels(channels):
    net = models.ResNet(((1, 64),)).init((1, channels, 32, 32))
    assert net(torch.rand(2, channels, 32, 32)).shape == (2, 10)


def test_vgg_names_say_the_number_of_layers_with_weights():
    archs = {11: models.VGG11, 13: models.VGG13, 16: models.VGG16, 19: models.VGG19}
    for layers, arch in (*archs.items(), (11, models.VGG11_SLIM)):
        assert sum(convolutions for convolutions, _ in arch) + 3 == layers


def test_init_cnn_is_xavier_uniform():
    net = models.LeNet().init((1, 1, 28, 28))
    weight = net.net[3].weight
    bound = (6 / ((6 + 16) * 25)) ** 0.5
    assert weight.abs().max() <= bound
    assert weight.abs().max() > 0.9 * bound
