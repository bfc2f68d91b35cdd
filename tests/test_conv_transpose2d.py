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

OP = "conv2d_backward_input"
pytestmark = pytest.mark.usefixtures("backend")
CASES = [
    ((2, 3, 5, 6), (3, 4, 3, 3), {}),
    ((2, 3, 5, 6), (3, 4, 4, 4), {"stride": 2, "padding": 1}),
    ((2, 4, 5, 6), (4, 3, 3, 2), {"stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2), "groups": 2}),
    ((1, 3, 5, 6), (3, 4, 3, 3), {"dilation": 3, "padding": 2, "output_padding": 2}),
    ((3, 1, 1, 1), (1, 2, 7, 7), {"stride": 4}),
    ((0, 3, 5, 6), (3, 4, 3, 3), {"stride": 2}),
]


OURS = [name for name in present_backends("conv2d_backward_input") if name != "torch"]


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("size", "weight_size", "arguments"), CASES)
def test_matches_reference(size, weight_size, arguments, dtype, channels_last):
    out = weight_size[1] * arguments.get("groups", 1)
    x = make_tensor(size, dtype, channels_last=channels_last)
    tensors = x, make_tensor(weight_size, dtype, seed=1), make_tensor((out,), dtype, seed=2)
    functions = reference.conv_transpose2d, torch_functional.conv_transpose2d
    assert_as_exact_as_torch(F.conv_transpose2d(*tensors, **arguments), *functions, *tensors, **arguments)
    assert_gradients_as_exact_as_torch(F.conv_transpose2d, *functions, *tensors, **arguments)


@pytest.mark.parametrize("backend", OURS, indirect=True)
def test_gradients_of_gradients():
    tensors = [make_tensor(s, torch.float64, requires_grad=True) for s in ((2, 2, 3, 2), (2, 1, 3, 2), (1,))]
    assert torch.autograd.gradcheck(F.conv_transpose2d, (*tensors, 2, 1, 1))
    assert torch.autograd.gradgradcheck(F.conv_transpose2d, (*tensors, 2, 1, 1))


def test_unbatched_is_a_batch_of_one():
    x, weight = make_tensor((3, 5, 6)), make_tensor((3, 4, 3, 3), seed=1)
    assert torch.equal(F.conv_transpose2d(x, weight), F.conv_transpose2d(x[None], weight)[0])


def test_autocast_casts_as_torch():
    x, weight, bias = make_tensor((1, 3, 5, 6)), make_tensor((3, 4, 3, 3), seed=1), make_tensor((4,))
    with torch.autocast("cpu", torch.bfloat16):
        output, peer = F.conv_transpose2d(x, weight, bias), torch_functional.conv_transpose2d(x, weight, bias)
    assert output.dtype == peer.dtype == torch.bfloat16


def test_layer_with_a_stride_of_one_half_doubles_the_image():
    layer = nn.ConvTranspose2d(1, 1, 2, stride=2, bias=False)
    torch.nn.init.ones_(layer.weight)
    assert layer(torch.tensor([[[1.0, 2.0]]])).tolist() == [[[1, 1, 2, 2], [1, 1, 2, 2]]]


def test_layer_takes_the_size_that_a_strided_layer_started_from():
    down, up = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1)
    for size in ((2, 3, 11, 12), (2, 3, 12, 11)):
        assert up(down(torch.ones(size)), output_size=size).shape == size
    with pytest.raises(ValueError, match="requested an output size"):
        up(torch.ones(2, 4, 6, 6), output_size=(20, 20))


IMAGE, WEIGHT = torch.ones(1, 3, 4, 4), torch.ones(3, 2, 3, 3)


@pytest.mark.parametrize(
    ("tensors", "arguments"),
    [
        ((torch.ones(4, 4), WEIGHT), {}),
        ((IMAGE, torch.ones(3, 2, 3)), {}),
        ((IMAGE, torch.ones(2, 2, 3, 3)), {}),
        ((IMAGE, WEIGHT, torch.ones(3)), {}),
        ((IMAGE, WEIGHT.double()), {}),
        ((IMAGE, WEIGHT), {"groups": 2}),
        ((IMAGE, WEIGHT), {"groups": 0}),
        ((IMAGE, WEIGHT), {"stride": 0}),
        ((IMAGE, WEIGHT), {"stride": (1, -1)}),
        ((IMAGE, WEIGHT), {"padding": -1}),
        ((IMAGE, WEIGHT), {"padding": 4}),
        ((IMAGE, WEIGHT), {"dilation": 0}),
        ((IMAGE, WEIGHT), {"output_padding": -1}),
        ((IMAGE, WEIGHT), {"output_padding": 1}),
    ],
)
def test_what_torch_refuses_is_refused(tensors, arguments):
    with pytest.raises(RuntimeError):
        torch_functional.conv_transpose2d(*tensors, **arguments)
    with pytest.raises(RuntimeError):
        F.conv_transpose2d(*tensors, **arguments)


@pytest.mark.parametrize(
    ("tensors", "arguments", "words"),
    [
        (([1.0], WEIGHT), {}, "`input` must be a torch.Tensor"),
        ((IMAGE, WEIGHT, 1.0), {}, "`bias` must be a torch.Tensor"),
        ((IMAGE, WEIGHT), {"stride": 1.5}, "`stride` must be an int or a pair of ints, but got 1.5"),
    ],
)
def test_wrong_types_are_refused(tensors, arguments, words):
    with pytest.raises(TypeError, match=words):
        F.conv_transpose2d(*tensors, **arguments)
