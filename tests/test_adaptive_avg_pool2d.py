import pytest
import torch
import torch.nn.functional as torch_functional
from ours import own_backends, own_namespaces

import cnnext
import cnnext.functional as F
from cnnext import reference
from cnnext.backends import DTYPES
from cnnext.testing import (
    assert_as_exact_as_torch,
    assert_gradients_as_exact_as_torch,
    make_tensor,
)

OP = "adaptive_avg_pool2d"
CASES = [
    ((2, 17, 3, 3), 1),
    ((2, 5, 7, 7), (1, 1)),
    ((1, 3, 8, 9), (3, 4)),
    ((2, 4, 5, 6), (7, None)),
    ((1, 2, 8, 6), (4, 3)),
    ((2, 9, 13, 40), (1, 7)),
    ((2, 9, 13, 40), (5, 1)),
    ((1, 3, 2, 3), (5, 7)),
    ((1, 3, 33, 65), 1),
    ((0, 3, 4, 4), 2),
]


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "size"), CASES)
def test_forward_and_gradients_match_reference(shape, size, dtype, channels_last, backend):
    x = make_tensor(shape, dtype, channels_last=channels_last)
    functions = (reference.adaptive_avg_pool2d, torch_functional.adaptive_avg_pool2d)
    assert_as_exact_as_torch(F.adaptive_avg_pool2d(x, size), *functions, x, output_size=size)
    assert_gradients_as_exact_as_torch(F.adaptive_avg_pool2d, *functions, x, output_size=size)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize(("shape", "size"), CASES)
def test_bits_do_not_depend_on_the_threads(shape, size, channels_last):
    x = make_tensor((shape[0], 70 * shape[1], *shape[2:]), channels_last=channels_last, requires_grad=True)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with cnnext.backend("cpu"):
                output = F.adaptive_avg_pool2d(x, size)
                results.append((output, torch.autograd.grad((output * output).sum(), x)[0]))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_nan_infinity_unbatched_and_non_contiguous(backend):
    x = make_tensor((9, 8, 6)).permute(2, 0, 1)
    x[1, 2, 3], x[2, 4, 4] = torch.nan, torch.inf
    for size in (1, (3, None), 4):
        theirs = torch_functional.adaptive_avg_pool2d(x, size)
        torch.testing.assert_close(F.adaptive_avg_pool2d(x, size), theirs, equal_nan=True)


def test_no_windows_and_no_channels(backend):
    assert F.adaptive_avg_pool2d(torch.ones(1, 3, 6, 6), (0, 2)).shape == (1, 3, 0, 2)
    assert F.adaptive_avg_pool2d(torch.ones(2, 0, 4, 4), 2).shape == (2, 0, 2, 2)


@pytest.mark.parametrize("backend", own_backends(OP), indirect=True)
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_the_gradient_of_no_windows_is_zero(channels_last, backend):
    x = make_tensor((2, 8, 6, 6), channels_last=channels_last, requires_grad=True)
    assert not torch.autograd.grad(F.adaptive_avg_pool2d(x, (0, 2)).sum(), x)[0].any()


def test_global_average_of_no_pixel_is_nan(backend):
    assert F.adaptive_avg_pool2d(torch.ones(2, 3, 0, 5), 1).isnan().all()


def test_compiles_as_one_graph(backend):
    def step(x):
        return F.adaptive_avg_pool2d(x, (3, 2)).square().sum()

    x = make_tensor((2, 3, 9, 8), requires_grad=True)
    (expected,) = torch.autograd.grad(step(x), x)
    (ours,) = torch.autograd.grad(torch.compile(step, fullgraph=True, backend="aot_eager")(x), x)
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("size", [1, (3, 2), (7, 1), (9, 6)], ids=str)
def test_derivatives_of_every_order(size, backend):
    x = make_tensor((1, 2, 7, 5), torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: F.adaptive_avg_pool2d(x, size), (x,))
    assert torch.autograd.gradgradcheck(lambda x: F.adaptive_avg_pool2d(x, size), (x,))


@pytest.mark.parametrize("namespace", own_namespaces(OP))
def test_opcheck(namespace):
    ops = getattr(torch.ops, namespace)
    x = make_tensor((2, 3, 8, 7), requires_grad=True)
    grad = ops.adaptive_avg_pool2d(x, (3, 2)).detach().requires_grad_()
    torch.library.opcheck(ops.adaptive_avg_pool2d.default, (x, (3, 2)))
    torch.library.opcheck(ops.adaptive_avg_pool2d_backward.default, (grad, x.shape))


@pytest.mark.parametrize("backend", own_backends(OP), indirect=True)
@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (([[1.0]], 2), TypeError, "`input` must be a torch.Tensor"),
        ((torch.ones(8, 8), 2), RuntimeError, "`input`"),
        ((torch.ones(1, 2, 8, 8), -1), RuntimeError, "`output_size`"),
        ((torch.ones(1, 2, 8, 8).long(), 2), RuntimeError, "int64"),
    ],
)
def test_refusals(arguments, error, words, backend):
    with pytest.raises(error, match=words):
        F.adaptive_avg_pool2d(*arguments)


IMAGE = torch.ones(1, 2, 8, 8)


@pytest.mark.parametrize("namespace", own_namespaces(OP))
@pytest.mark.parametrize(
    "arguments", [(IMAGE, (2,)), (IMAGE, (-1, 2)), (IMAGE, (2**40, 1)), (IMAGE[0], (2, 2))], ids=str
)
def test_op_refuses_nonsense(arguments, namespace):
    with pytest.raises(RuntimeError, match="expected"):
        getattr(torch.ops, namespace).adaptive_avg_pool2d(*arguments)


@pytest.mark.parametrize("namespace", own_namespaces(OP))
@pytest.mark.parametrize("size", [[1, 3, 8, 8], [1, 2, 8], [1, 2, -8, 8], [1, 2, 0, 8], [1, 2, 8, 2**62]], ids=str)
def test_backward_refuses_what_does_not_fit(size, namespace):
    with pytest.raises(RuntimeError, match="expected"):
        getattr(torch.ops, namespace).adaptive_avg_pool2d_backward(torch.ones(1, 2, 4, 4), size)
