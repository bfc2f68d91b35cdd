import pytest
import torch

import cnnext
import cnnext.functional as F
from cnnext import nn
from cnnext.testing import make_tensor, present_backends


@pytest.fixture(params=present_backends("max_pool2d"), autouse=True)
def backend(request):
    torch.manual_seed(0)
    with cnnext.backend(request.param):
        yield request.param


def test_draws_each_activation_with_its_probability():
    window = torch.tensor([[0.0, 1.0], [2.0, 5.0]])
    draws = F.stochastic_pool2d(window.expand(1, 20000, 2, 2), 2).flatten()
    for value in (1.0, 2.0, 5.0):
        share, probability = (draws == value).double().mean().item(), value / 8
        deviation = (probability * (1 - probability) / draws.numel()) ** 0.5
        assert abs(share - probability) < 5 * deviation
    assert set(draws.tolist()) == {1.0, 2.0, 5.0}


def test_overlapping_padded_windows_draw_with_their_probabilities_too():
    image = torch.arange(1.0, 17).reshape(4, 4)
    draws = F.stochastic_pool2d(image.expand(1, 20000, 4, 4), 3, 2, 1)
    expected = F.stochastic_pool2d(image[None, None], 3, 2, 1, training=False)
    deviation = draws.std(1) / draws.shape[1] ** 0.5
    assert ((draws.mean(1) - expected[:, 0]).abs() < 5 * deviation).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_expectation_in_evaluation(dtype):
    x = 300 * make_tensor((2, 3, 6, 8), dtype)  # squares beyond float16
    windows = x.double().clamp(min=0).unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    expected = windows.square().sum(4) / windows.sum(4).clamp(min=1e-300)
    output = F.stochastic_pool2d(x, 2, training=False)
    torch.testing.assert_close(output, expected.to(dtype))


def test_gradient_goes_to_what_was_drawn():
    x = make_tensor((2, 3, 6, 8)).abs().requires_grad_()
    output = F.stochastic_pool2d(x, 2)
    output.backward(output.detach())
    drawn = x.grad != 0
    assert torch.equal(x.grad[drawn], x[drawn])
    assert (drawn.unfold(2, 2, 2).unfold(3, 2, 2).sum((4, 5)) == 1).all()


def test_expectation_is_differentiable():
    x = (make_tensor((1, 2, 4, 4), torch.float64).abs() + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: F.stochastic_pool2d(x, 3, 1, 1, training=False), x)


@pytest.mark.parametrize("training", [True, False])
def test_windows_without_activation_give_zero(training):
    x = -torch.rand(1, 2, 4, 4).requires_grad_()
    output = F.stochastic_pool2d(x, 2, training=training)
    assert torch.equal(output, torch.zeros(1, 2, 2, 2))
    assert not torch.autograd.grad(output.sum(), x)[0].isnan().any()


def test_layer_follows_its_mode():
    layer, x = nn.StochasticPool2d(2), make_tensor((2, 3, 6, 8)).abs()
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), F.stochastic_pool2d(x, 2, training=False))
    assert repr(layer) == "StochasticPool2d(kernel_size=2, stride=2, padding=0, ceil_mode=False)"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (TypeError, (1, 2)),
        (TypeError, (torch.ones(1, 4, 4), 1.5)),
        (RuntimeError, (torch.ones(4, 4), 2)),
        (RuntimeError, (torch.ones(1, 4, 4), 5)),
        (RuntimeError, (torch.ones(1, 4, 4), 2, 2, 2)),
        (RuntimeError, (torch.ones(1, 4, 4), 2, 0)),
    ],
)
def test_refusals(error, arguments, training):
    with pytest.raises(error):
        F.stochastic_pool2d(*arguments, training=training)
