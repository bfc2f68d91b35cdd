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


def test_init_cnn_is_xavier_uniform():
    net = models.LeNet().init((1, 1, 28, 28))
    weight = net.net[3].weight
    bound = (6 / ((6 + 16) * 25)) ** 0.5
    assert weight.abs().max() <= bound
    assert weight.abs().max() > 0.9 * bound
