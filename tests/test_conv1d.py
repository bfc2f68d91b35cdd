import pytest
import torch
import torch.nn.functional as torch_functional

import cnnext.functional as F
from cnnext import nn, reference
from cnnext.backends import DTYPES
from cnnext.testing import (
    assert_as_exact_as_torch,
    assert_gradients_as_exact_as_torch,
    make_tensor,
    present_backends,
)

OP = "conv2d"
pytestmark = pytest.mark.usefixtures("backend")
CASES = [
    ((2, 3, 50), (4, 3, 5), {}),
    ((2, 4, 50), (6, 2, 5), {"stride": 3, "padding": 2, "groups": 2}),
    ((2, 3, 50), (4, 3, 3), {"stride": 2, "padding": 4, "dilation": 4}),
    ((1, 1, 400), (8, 1, 40), {"stride": 10}),
]


OURS = [name for name in present_backends("conv2d") if name != "torch"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("size", "weight_size", "arguments"), CASES)
def test_matches_reference(size, weight_size, arguments, dtype):
    tensors = make_tensor(size, dtype), make_tensor(weight_size, dtype, seed=1), make_tensor(weight_size[:1], dtype)
    functions = reference.conv1d, torch_functional.conv1d
    assert_as_exact_as_torch(F.conv1d(*tensors, **arguments), *functions, *tensors, **arguments)
    assert_gradients_as_exact_as_torch(F.conv1d, *functions, *tensors, **arguments)


@pytest.mark.parametrize("backend", OURS, indirect=True)
def test_gradients_of_gradients():
    tensors = [make_tensor(s, torch.float64, requires_grad=True) for s in ((2, 2, 7), (3, 2, 3), (3,))]
    assert torch.autograd.gradcheck(F.conv1d, (*tensors, 2, 1))
    assert torch.autograd.gradgradcheck(F.conv1d, (*tensors, 2, 1))


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("taps", [4, 5])
def test_padding_by_name(padding, taps):
    x, weight = make_tensor((2, 3, 20)), make_tensor((4, 3, taps), seed=1)
    torch.testing.assert_close(
        F.conv1d(x, weight, padding=padding), torch_functional.conv1d(x, weight, padding=padding)
    )


def test_unbatched_is_a_batch_of_one():
    x, weight = make_tensor((3, 20)), make_tensor((4, 3, 5), seed=1)
    assert torch.equal(F.conv1d(x, weight), F.conv1d(x[None], weight)[0])


def test_arguments_may_be_sequences_of_one():
    x, weight = make_tensor((2, 3, 20)), make_tensor((4, 3, 5), seed=1)
    assert torch.equal(F.conv1d(x, weight, None, (2,), [1], (3,)), F.conv1d(x, weight, None, 2, 1, 3))


def test_layer_hears_a_tone():
    time = torch.arange(800) / 8000
    tone = torch.sin(2 * torch.pi * 1000 * time).reshape(1, 1, -1)
    layer = nn.Conv1d(1, 2, 80, stride=40, bias=False)
    with torch.no_grad():
        for channel, hertz in enumerate((1000, 2000)):
            layer.weight[channel, 0] = torch.sin(2 * torch.pi * hertz * time[:80])
    strength = layer(tone).abs().mean(2).flatten()
    assert strength[0] > 100 * strength[1]


@pytest.mark.parametrize(
    ("error", "arguments", "words"),
    [
        (TypeError, ([1.0], torch.ones(1, 1, 1)), "`input` must be a torch.Tensor"),
        (TypeError, (torch.ones(1, 1, 5), torch.ones(1, 1, 1), None, 1.5), "`stride` must be an int"),
        (TypeError, (torch.ones(1, 1, 5), torch.ones(1, 1, 1), None, (1, 1)), r"`stride`.*got \(1, 1\)"),
        (RuntimeError, (torch.ones(1, 1, 5, 5), torch.ones(1, 1, 1)), r"`input` of shape \[N, C, L\]"),
        (RuntimeError, (torch.ones(1, 1, 5), torch.ones(1, 1)), r"`weight` of shape \[K, C / groups, S\]"),
        (RuntimeError, (torch.ones(1, 1, 5), torch.ones(1, 1, 6)), None),
        (RuntimeError, (torch.ones(1, 1, 5), torch.ones(1, 1, 1), None, 0), None),
    ],
)
def test_refusals(error, arguments, words):
    with pytest.raises(error, match=words):
        F.conv1d(*arguments)
