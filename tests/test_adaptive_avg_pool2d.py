import pytest
import torch
import torch.nn.functional as torch_functional

import cnnext
import cnnext.functional as F
from cnnext import reference
from cnnext.testing import (
    assert_as_exact_as_torch,
    assert_gradients_as_exact_as_torch,
    make_tensor,
    present_backends,
)

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
CASES = [
    ((2, 17, 3, 3), 1),
    ((2, 5, 7, 7), (1, 1)),
    ((1, 3, 8, 9), (3, 4)),
    ((2, 4, 5, 6), (7, None)),
    ((0, 3, 4, 4), 2),
]


@pytest.fixture(params=present_backends("adaptive_avg_pool2d"))
def backend(request):
    with cnnext.backend(request.param):
        yield request.param


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "size"), CASES)
def test_forward_and_gradients_match_reference(shape, size, dtype, channels_last, backend):
    x = make_tensor(shape, dtype, channels_last=channels_last)
    functions = (reference.adaptive_avg_pool2d, torch_functional.adaptive_avg_pool2d)
    assert_as_exact_as_torch(F.adaptive_avg_pool2d(x, size), *functions, x, output_size=size)
    assert_gradients_as_exact_as_torch(F.adaptive_avg_pool2d, *functions, x, output_size=size)


def test_derivatives_of_every_order():
    x = make_tensor((1, 2, 7, 5), torch.float64, requires_grad=True)
    with cnnext.backend("cpu"):
        assert torch.autograd.gradcheck(lambda x: F.adaptive_avg_pool2d(x, (3, 2)), (x,))
        assert torch.autograd.gradgradcheck(lambda x: F.adaptive_avg_pool2d(x, (3, 2)), (x,))


def test_opcheck():
    x = make_tensor((2, 3, 8, 7), requires_grad=True)
    grad = torch.ops.cnnext.adaptive_avg_pool2d(x, (3, 2)).detach().requires_grad_()
    torch.library.opcheck(torch.ops.cnnext.adaptive_avg_pool2d.default, (x, (3, 2)))
    torch.library.opcheck(torch.ops.cnnext.adaptive_avg_pool2d_backward.default, (grad, x.shape))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (([[1.0]], 2), TypeError, "`input` must be a torch.Tensor"),
        ((torch.ones(8, 8), 2), RuntimeError, "`input`"),
        ((torch.ones(1, 2, 8, 8), -1), RuntimeError, "`output_size`"),
        ((torch.ones(1, 2, 8, 8).long(), 2), RuntimeError, "int64"),
    ],
)
def test_refusals(arguments, error, words):
    with cnnext.backend("cpu"), pytest.raises(error, match=words):
        F.adaptive_avg_pool2d(*arguments)
