import pytest
import torch
import torch.nn.functional as torch_functional

import cnnext
import cnnext.functional as F
from cnnext import reference
from cnnext.backends import DTYPES
from cnnext.testing import (
    assert_as_exact_as_torch,
    assert_gradients_as_exact_as_torch,
    make_tensor,
)

SHAPES = [((6, 8), (1, 2)), ((8, 6), (2, 1)), ((5, 5), (5, 5)), ((1, 1), (1, 1)), ((37, 53), (3, 7))]
SHAPES += [((130, 67), (5, 4))]
OP = "corr2d"


def torch_corr2d(input, kernel):
    return torch_functional.conv2d(input[None, None], kernel[None, None])[0, 0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_forward_and_gradients_match_reference(shapes, dtype, backend):
    x, kernel = make_tensor(shapes[0], dtype, seed=1), make_tensor(shapes[1], dtype, seed=2)
    assert_as_exact_as_torch(F.corr2d(x, kernel), reference.corr2d, torch_corr2d, x, kernel)
    assert_gradients_as_exact_as_torch(F.corr2d, reference.corr2d, torch_corr2d, x, kernel)


def test_non_contiguous_inputs(backend):
    x, kernel = make_tensor((8, 6)).T, make_tensor((4, 6), seed=1)[::2, ::3]
    assert_as_exact_as_torch(F.corr2d(x, kernel), reference.corr2d, torch_corr2d, x, kernel)


def test_infinity_and_nan_go_where_torch_puts_them(backend):
    x, kernel = make_tensor((9, 20)), make_tensor((2, 3), seed=1)
    x[4, 4], x[7, 15] = torch.inf, torch.nan
    assert_as_exact_as_torch(F.corr2d(x, kernel), reference.corr2d, torch_corr2d, x, kernel)


def test_derivatives_of_every_order(backend):
    x = make_tensor((6, 7), torch.float64, requires_grad=True)
    kernel = make_tensor((3, 2), torch.float64, seed=1, requires_grad=True)
    assert torch.autograd.gradcheck(F.corr2d, (x, kernel))
    assert torch.autograd.gradgradcheck(F.corr2d, (x, kernel))


@pytest.mark.parametrize("op", ["corr2d", "corr2d_backward_input", "corr2d_backward_kernel"])
def test_opcheck(op):
    large, small = make_tensor((6, 8), requires_grad=True), make_tensor((3, 2), seed=1, requires_grad=True)
    arguments = (small, large) if op == "corr2d_backward_kernel" else (large, small)
    torch.library.opcheck(getattr(torch.ops.cnnext, op), arguments)


def test_flop_counter_knows_it():
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter, cnnext.backend("cpu"):
        F.corr2d(make_tensor((6, 8)), make_tensor((3, 2)))
    assert counter.get_total_flops() == 2 * 4 * 7 * 6


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((torch.ones(3, 3), [[1.0]]), TypeError, "`kernel` must be a torch.Tensor"),
        ((torch.ones(3), torch.ones(1, 1)), RuntimeError, r"`input` with 2 dimensions, but got shape \[3\]"),
        ((torch.ones(3, 3), torch.ones(4, 1)), RuntimeError, r"`kernel` of shape \[4, 1\]"),
        ((torch.ones(3, 3), torch.ones(0, 1)), RuntimeError, r"`kernel` of shape \[0, 1\]"),
        ((torch.ones(3, 3), torch.ones(1, 1, dtype=torch.float64)), RuntimeError, "Float and Double"),
        ((torch.ones(3, 3).long(), torch.ones(1, 1).long()), RuntimeError, "int64"),
        ((torch.ones(3, 3), torch.ones(1, 1, device="meta")), RuntimeError, "on one device, but got cpu and meta"),
    ],
)
def test_refusals(arguments, error, words):
    with cnnext.backend("cpu"), pytest.raises(error, match=words):
        F.corr2d(*arguments)


@pytest.mark.parametrize("op", ["corr2d_backward_input", "corr2d_backward_kernel"])
def test_backward_ops_refuse_shapes_that_do_not_fit(op):
    with pytest.raises(RuntimeError, match="expected"):
        getattr(torch.ops.cnnext, op)(torch.ones(5, 5), torch.ones(0, 4))
