import pytest
import torch
import torch.nn.functional as torch_functional

import cnnext.functional as F
from cnnext import reference
from cnnext.backends import DTYPES
from cnnext.testing import (
    assert_as_exact_as_torch,
    assert_gradients_as_exact_as_torch,
    make_tensor,
    present_backends,
)

OP = "conv2d"
pytestmark = pytest.mark.usefixtures("backend")


def torch_multi_in(input, kernel):
    return torch_functional.conv2d(input[None], kernel[None])[0, 0]


def torch_multi_in_out(input, kernel):
    return torch_functional.conv2d(input[None], kernel)[0]


FUNCTIONS = [
    (F.corr2d_multi_in, reference.corr2d_multi_in, torch_multi_in, (3, 2, 4)),
    (F.corr2d_multi_in_out, reference.corr2d_multi_in_out, torch_multi_in_out, (5, 3, 2, 4)),
    (F.corr2d_multi_in_out_1x1, reference.corr2d_multi_in_out, torch_multi_in_out, (5, 3, 1, 1)),
]


OURS = [name for name in present_backends("conv2d") if name != "torch"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("function", "definition", "peer", "size"), FUNCTIONS)
def test_matches_reference(function, definition, peer, size, dtype):
    tensors = make_tensor((3, 7, 9), dtype, seed=1), make_tensor(size, dtype, seed=2)
    assert_as_exact_as_torch(function(*tensors), definition, peer, *tensors)
    assert_gradients_as_exact_as_torch(function, definition, peer, *tensors)


@pytest.mark.parametrize("backend", OURS, indirect=True)
@pytest.mark.parametrize(("function", "definition", "peer", "size"), FUNCTIONS)
def test_gradients_of_gradients(function, definition, peer, size):
    few = (2, *size[1:]) if len(size) == 4 else size
    tensors = [make_tensor(shape, torch.float64, requires_grad=True) for shape in ((3, 3, 4), few)]
    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


def test_non_contiguous_images_are_read_by_their_strides():
    image, kernel = make_tensor((7, 3, 9)).permute(1, 2, 0), make_tensor((2, 3, 2, 2), seed=1)
    torch.testing.assert_close(
        F.corr2d_multi_in_out(image, kernel), F.corr2d_multi_in_out(image.contiguous(), kernel), rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("function", "shapes", "words"),
    [
        (F.corr2d_multi_in, ((3, 4), (3, 2, 2)), "`input` with 3 dimensions"),
        (F.corr2d_multi_in, ((3, 4, 4), (2, 2)), "`kernel` with 3 dimensions"),
        (F.corr2d_multi_in, ((3, 4, 4), (2, 2, 2)), r"3 channels of `input` of shape \[3, 4, 4\]"),
        (F.corr2d_multi_in, ((3, 4, 4), (3, 5, 2)), None),
        (F.corr2d_multi_in_out, ((3, 4, 4), (3, 2, 2)), "`kernel` with 4 dimensions"),
        (F.corr2d_multi_in_out, ((3, 4, 4), (5, 2, 2, 2)), "3 channels of `input`"),
        (F.corr2d_multi_in_out_1x1, ((3, 4, 4), (5, 3, 2, 1)), r"`kernel` of shape \[K, C, 1, 1\]"),
    ],
)
def test_shapes_that_do_not_fit(function, shapes, words):
    with pytest.raises(RuntimeError, match=words):
        function(*(torch.ones(shape) for shape in shapes))


@pytest.mark.parametrize(("function", "definition", "peer", "size"), FUNCTIONS)
def test_other_refusals(function, definition, peer, size):
    with pytest.raises(TypeError, match="`kernel` must be a torch.Tensor, but got list"):
        function(torch.ones(3, 7, 9), [1.0])
    with pytest.raises(RuntimeError):
        function(torch.ones(3, 7, 9), torch.ones(size, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="`input` and `kernel` on one device"):
        function(torch.ones(3, 7, 9), torch.ones(size, device="meta"))
