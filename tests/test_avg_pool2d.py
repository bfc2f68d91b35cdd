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

OP = "avg_pool2d"
CASES = [
    ((2, 6, 8, 8), {"kernel_size": 2}),
    ((1, 5, 7, 9), {"kernel_size": 2, "stride": 2, "ceil_mode": True}),
    ((2, 17, 13, 11), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((2, 17, 13, 11), {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False}),
    ((1, 3, 9, 37), {"kernel_size": (2, 3), "stride": (1, 3), "padding": (1, 1), "divisor_override": 5}),
    ((1, 2, 5, 5), {"kernel_size": 5}),
    ((1, 2, 6, 6), {"kernel_size": 3, "stride": 3, "padding": 1, "ceil_mode": True, "count_include_pad": False}),
    ((1, 3, 10, 14), {"kernel_size": 2}),
    ((1, 3, 7, 71), {"kernel_size": 2, "divisor_override": -3}),
    ((1, 2, 5, 4), {"kernel_size": 1}),
    ((1, 40, 7, 7), {"kernel_size": 7}),
    ((1, 3, 31, 29), {"kernel_size": (5, 4), "stride": (1, 4), "padding": (2, 1)}),
    ((1, 3, 11, 29), {"kernel_size": (3, 29), "stride": 2}),
    ((1, 2, 10, 10), {"kernel_size": 2, "stride": 2, "padding": 1, "ceil_mode": True}),
    ((1, 1, 9, 9), {"kernel_size": 2, "stride": 70}),
    ((0, 3, 8, 8), {"kernel_size": 2}),
]


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "arguments"), CASES)
def test_forward_and_gradients_match_reference(shape, arguments, dtype, channels_last, backend):
    x = make_tensor(shape, dtype, channels_last=channels_last)
    output = F.avg_pool2d(x, **arguments)
    functions = (reference.avg_pool2d, torch_functional.avg_pool2d)
    assert output.stride() == torch_functional.avg_pool2d(x, **arguments).stride()
    assert_as_exact_as_torch(output, *functions, x, **arguments)
    assert_gradients_as_exact_as_torch(F.avg_pool2d, *functions, x, **arguments)


def test_nan_infinity_unbatched_and_non_contiguous(backend):
    x = make_tensor((9, 8, 6)).permute(2, 0, 1)
    x[1, 2, 3], x[2, 4, 4] = torch.nan, torch.inf
    torch.testing.assert_close(F.avg_pool2d(x, 3, 2, 1), torch_functional.avg_pool2d(x, 3, 2, 1), equal_nan=True)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize(("shape", "arguments"), CASES)
def test_bits_do_not_depend_on_the_threads(shape, arguments, channels_last):
    x = make_tensor((shape[0], 33 * shape[1], *shape[2:]), channels_last=channels_last, requires_grad=True)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with cnnext.backend("cpu"):
                output = F.avg_pool2d(x, **arguments)
                results.append((output, torch.autograd.grad((output * output).sum(), x)[0]))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_compiles_as_one_graph(backend):
    def step(x):
        return F.avg_pool2d(x, 3, 2, 1).square().sum()

    x = make_tensor((2, 3, 9, 8), requires_grad=True)
    (expected,) = torch.autograd.grad(step(x), x)
    (ours,) = torch.autograd.grad(torch.compile(step, fullgraph=True, backend="aot_eager")(x), x)
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("arguments", [CASES[0][1], CASES[3][1], CASES[4][1]], ids=str)
def test_derivatives_of_every_order(arguments, backend):
    x = make_tensor((1, 2, 6, 5), torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: F.avg_pool2d(x, **arguments), (x,))
    assert torch.autograd.gradgradcheck(lambda x: F.avg_pool2d(x, **arguments), (x,))


@pytest.mark.parametrize("namespace", own_namespaces(OP))
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_opcheck(channels_last, namespace):
    ops = getattr(torch.ops, namespace)
    x = make_tensor((2, 3, 8, 7), channels_last=channels_last, requires_grad=True)
    window = ((3, 2), (2, 2), (1, 0))
    grad = ops.avg_pool2d(x, *window, False, True, None).detach().requires_grad_()
    torch.library.opcheck(ops.avg_pool2d.default, (x, *window, False, True, None))
    torch.library.opcheck(ops.avg_pool2d_backward.default, (grad, x.shape, *window, True, None))


IMAGE = torch.ones(1, 2, 8, 8)


@pytest.mark.parametrize("backend", own_backends(OP), indirect=True)
@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (([[1.0]], 2), TypeError, "`input` must be a torch.Tensor"),
        ((torch.ones(8, 8), 2), RuntimeError, "`input`"),
        ((IMAGE, 0), RuntimeError, r"`kernel_size`.*\[0, 0\]"),
        ((IMAGE, 2, 0), RuntimeError, r"`stride`.*\[0, 0\]"),
        ((IMAGE, 2, 2, 2), RuntimeError, "`padding`"),
        ((IMAGE, 9), RuntimeError, "expected"),
        ((IMAGE, 2, 2, 0, False, True, 0), RuntimeError, "`divisor_override`"),
        ((IMAGE.long(), 2), RuntimeError, "int64"),
    ],
)
def test_refusals(arguments, error, words, backend):
    with pytest.raises(error, match=words):
        F.avg_pool2d(*arguments)


@pytest.mark.parametrize("namespace", own_namespaces(OP))
@pytest.mark.parametrize(
    "arguments",
    [
        (IMAGE, (2,), (2, 2), (0, 0), False, True, None),
        (IMAGE, (2, 2), (0, 2), (0, 0), False, True, None),
        (IMAGE, (2, 2), (2, 2), (0, 2), False, True, None),
        (IMAGE, (2**40, 2), (1, 1), (2**39, 0), False, True, None),
        (IMAGE, (2, 2), (2, 2), (0, 0), False, True, 0),
        (IMAGE[0], (2, 2), (2, 2), (0, 0), False, True, None),
        (IMAGE[..., :0], (2, 2), (2, 2), (0, 0), False, True, None),
    ],
    ids=lambda arguments: str(arguments[1:]),
)
def test_op_refuses_nonsense(arguments, namespace):
    with pytest.raises(RuntimeError, match="expected"):
        getattr(torch.ops, namespace).avg_pool2d(*arguments)


@pytest.mark.parametrize("namespace", own_namespaces(OP))
@pytest.mark.parametrize("size", [[1, 2, 5, 8], [1, 3, 8, 8], [1, 2, 8], [1, 2, 8, -8], [1, 2, 8, 2**62]], ids=str)
def test_backward_refuses_what_does_not_fit(size, namespace):
    with pytest.raises(RuntimeError, match="expected"):
        getattr(torch.ops, namespace).avg_pool2d_backward(
            torch.ones(1, 2, 4, 4), size, (2, 2), (2, 2), (0, 0), True, None
        )


def test_ceil_mode_with_a_window_larger_than_the_image_can_be_differentiated_twice(backend):
    x = make_tensor((1, 2, 2, 3), torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True), (x,))
