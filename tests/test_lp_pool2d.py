import math

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

OP = "avg_pool2d"
pytestmark = pytest.mark.usefixtures("backend")
NORMS = [0.5, 1, 1.5, 2, 3, math.inf]


OURS = [name for name in present_backends("avg_pool2d") if name != "torch"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("kernel_size", "stride"), [(2, None), (3, 2)])
@pytest.mark.parametrize("norm_type", [2, 4])
def test_matches_torch_where_torch_has_the_norm(norm_type, kernel_size, stride, dtype):
    x = make_tensor((2, 3, 8, 9), dtype)
    arguments = {"norm_type": norm_type, "kernel_size": kernel_size, "stride": stride}
    functions = reference.lp_pool2d, torch_functional.lp_pool2d
    assert_as_exact_as_torch(F.lp_pool2d(x, **arguments), *functions, x, **arguments)
    assert_gradients_as_exact_as_torch(F.lp_pool2d, *functions, x, **arguments)


@pytest.mark.parametrize("norm_type", NORMS)
def test_is_the_norm_of_each_window(norm_type):
    x = make_tensor((2, 3, 8, 9), torch.float64)
    torch.testing.assert_close(F.lp_pool2d(x, norm_type, 3, 2), reference.lp_pool2d(x, norm_type, 3, 2))
    layer = nn.LPPool2d(norm_type, 3, 2)
    assert torch.equal(layer(x), F.lp_pool2d(x, norm_type, 3, 2))


@pytest.mark.parametrize("backend", OURS, indirect=True)
@pytest.mark.parametrize("norm_type", NORMS)
def test_gradients_of_gradients(norm_type):
    x = make_tensor((1, 2, 5, 4), torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(F.lp_pool2d, (x, norm_type, 3, 1))
    assert torch.autograd.gradgradcheck(F.lp_pool2d, (x, norm_type, 3, 1))


@pytest.mark.parametrize("norm_type", NORMS)
def test_gradient_of_a_window_of_zeros_is_zero(norm_type):
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    F.lp_pool2d(x, norm_type, 2).sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_incomplete_windows_count_what_they_have():
    output = F.lp_pool2d(torch.ones(1, 3, 3), 2, 2, ceil_mode=True)
    torch.testing.assert_close(output, torch.tensor([[[4.0, 2], [2, 1]]]).sqrt())


@pytest.mark.parametrize(
    ("error", "arguments", "words"),
    [
        (TypeError, (1, 2, 2), "`input` must be a torch.Tensor"),
        (TypeError, (torch.ones(1, 4, 4), "2", 2), "`norm_type` must be a number, but got '2'"),
        (ValueError, (torch.ones(1, 4, 4), 0, 2), "`norm_type` must be above zero, but got 0"),
        (ValueError, (torch.ones(1, 4, 4), math.nan, 2), "`norm_type` must be above zero, but got nan"),
        (RuntimeError, (torch.ones(4, 4), 2, 2), None),
        (RuntimeError, (torch.ones(1, 4, 4), 2, 5), None),
        (RuntimeError, (torch.ones(1, 4, 4), 2, 0), None),
    ],
)
def test_refusals(error, arguments, words):
    with pytest.raises(error, match=words):
        F.lp_pool2d(*arguments)
