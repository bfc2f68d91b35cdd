import contextlib

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

OP = "max_pool2d"
CASES = [
    ((2, 3, 8, 8), {"kernel_size": 2}),
    ((1, 5, 7, 9), {"kernel_size": 2, "stride": 2, "ceil_mode": True}),
    ((2, 17, 13, 11), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((2, 4, 12, 37), {"kernel_size": (2, 3), "stride": (2, 3), "padding": (0, 1)}),
    ((1, 3, 11, 9), {"kernel_size": 3, "stride": 1, "dilation": 2, "padding": 1}),
    ((1, 2, 5, 5), {"kernel_size": 5}),
    ((1, 2, 6, 6), {"kernel_size": 3, "stride": 3, "padding": 1, "ceil_mode": True}),
    ((1, 1, 40, 40), {"kernel_size": (17, 19), "stride": 5}),
    ((2, 19, 10, 14), {"kernel_size": 2}),
    ((1, 3, 6, 71), {"kernel_size": 2}),
    ((2, 3, 9, 70), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((1, 2, 1, 8), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((1, 2, 5, 4), {"kernel_size": 1}),
    ((1, 3, 31, 29), {"kernel_size": (5, 4), "stride": (1, 4), "padding": (2, 1)}),
    ((1, 2, 10, 10), {"kernel_size": 2, "stride": 2, "padding": 1, "ceil_mode": True}),
    ((1, 1, 9, 9), {"kernel_size": 2, "stride": 70}),
    ((1, 2, 13, 12), {"kernel_size": 2, "stride": (3, 1), "dilation": (3, 5)}),
    ((0, 3, 8, 8), {"kernel_size": 2}),
]


@contextlib.contextmanager
def threads_set_to(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "arguments"), CASES)
def test_values_indices_and_gradients(shape, arguments, dtype, channels_last, backend):
    x = make_tensor(shape, dtype, channels_last=channels_last)
    output, index = F.max_pool2d(x, **arguments, return_indices=True)
    expected, expected_index = torch_functional.max_pool2d(x, **arguments, return_indices=True)
    assert torch.equal(output, expected)
    assert torch.equal(index, expected_index)
    assert index.dtype == torch.int64
    assert output.stride() == expected.stride()
    assert_gradients_as_exact_as_torch(F.max_pool2d, reference.max_pool2d, torch_functional.max_pool2d, x, **arguments)


def test_reference_is_the_definition():
    x = make_tensor((2, 3, 9, 8), torch.float64)
    arguments = {"kernel_size": 3, "stride": 2, "padding": 1}
    output = reference.max_pool2d(x, **arguments)
    assert_as_exact_as_torch(output, reference.max_pool2d, torch_functional.max_pool2d, x, **arguments)


def test_nan_infinity_and_ties_go_where_torch_puts_them(backend):
    x = make_tensor((1, 2, 8, 9)).round()
    x[0, 0, 2, 3], x[0, 0, 5, 5], x[0, 1, 0, 0] = torch.nan, torch.inf, -torch.inf
    x[0, 1, 4:, :] = 1
    for arguments in ({"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}):
        ours = F.max_pool2d(x, **arguments, return_indices=True)
        theirs = torch_functional.max_pool2d(x, **arguments, return_indices=True)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("fill", [1.0, 0.0, -torch.inf, torch.inf, torch.nan], ids=str)
@pytest.mark.parametrize(("shape", "arguments"), CASES[:-1])
def test_equal_values_have_the_index_of_torch(shape, arguments, fill, channels_last, backend):
    x = torch.full(shape, fill)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    ours = F.max_pool2d(x, **arguments, return_indices=True)
    theirs = torch_functional.max_pool2d(x, **arguments, return_indices=True)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "arguments"), CASES[:-1])
def test_scattered_nan_and_infinity(shape, arguments, dtype, channels_last, backend):
    x = make_tensor(shape, dtype, channels_last=channels_last).round()
    kind = torch.randint(0, 12, shape, generator=torch.Generator().manual_seed(5))
    for value, number in ((torch.nan, 0), (torch.inf, 1), (-torch.inf, 2)):
        x[kind == number] = value
    ours = F.max_pool2d(x, **arguments, return_indices=True)
    theirs = torch_functional.max_pool2d(x, **arguments, return_indices=True)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize(("shape", "arguments"), CASES)
def test_bits_do_not_depend_on_the_threads(shape, arguments, channels_last):
    x = make_tensor((shape[0], 33 * shape[1], *shape[2:]), channels_last=channels_last, requires_grad=True)
    results = []
    for threads in (1, 2, 3):
        with cnnext.backend("cpu"), threads_set_to(threads):
            output, index = F.max_pool2d(x, **arguments, return_indices=True)
            results.append((output, index, torch.autograd.grad((output * output).sum(), x)[0]))
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_compiles_as_one_graph(backend):
    def step(x):
        output, index = F.max_pool2d(x, 3, 2, 1, return_indices=True)
        return (output * index).sum()

    x = make_tensor((2, 3, 9, 8), requires_grad=True)
    (expected,) = torch.autograd.grad(step(x), x)
    (ours,) = torch.autograd.grad(torch.compile(step, fullgraph=True, backend="aot_eager")(x), x)
    assert torch.equal(ours, expected)


def test_unbatched_and_non_contiguous(backend):
    x = make_tensor((9, 8, 6)).permute(2, 0, 1)
    assert torch.equal(F.max_pool2d(x, 2), torch_functional.max_pool2d(x, 2))


@pytest.mark.parametrize("arguments", [CASES[0][1], CASES[2][1], CASES[4][1]], ids=str)
def test_derivatives_of_every_order(arguments, backend):
    x = make_tensor((1, 2, 6, 5), torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: F.max_pool2d(x, **arguments), (x,))
    assert torch.autograd.gradgradcheck(lambda x: F.max_pool2d(x, **arguments), (x,))


@pytest.mark.parametrize("namespace", own_namespaces(OP))
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_opcheck(channels_last, namespace):
    ops = getattr(torch.ops, namespace)
    x = make_tensor((2, 3, 8, 7), channels_last=channels_last, requires_grad=True)
    window = ((3, 2), (2, 2), (1, 0), (1, 1))
    output, tap = ops.max_pool2d(x, *window, False)
    grad = output.detach().requires_grad_()
    torch.library.opcheck(ops.max_pool2d.default, (x, *window, False))
    torch.library.opcheck(ops.max_pool2d_backward.default, (grad, tap, x.shape, *window))
    torch.library.opcheck(ops.max_pool2d_gather.default, (x, tap, *window))


IMAGE = torch.ones(1, 2, 8, 8)


@pytest.mark.parametrize("backend", own_backends(OP), indirect=True)
@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (([[1.0]], 2), TypeError, "`input` must be a torch.Tensor"),
        ((torch.ones(8, 8), 2), RuntimeError, "`input`"),
        ((IMAGE, 0), RuntimeError, r"`kernel_size`.*\[0, 0\]"),
        ((IMAGE, "2"), TypeError, "`kernel_size`.*'2'"),
        ((IMAGE, 2, 0), RuntimeError, r"`stride`.*\[0, 0\]"),
        ((IMAGE, 2, 2, 2), RuntimeError, "`padding`"),
        ((IMAGE, 2, 2, -1), RuntimeError, "`padding`"),
        ((IMAGE, 2, 2, 0, 0), RuntimeError, r"`dilation`.*\[0, 0\]"),
        ((IMAGE, 9), RuntimeError, "expected"),
        ((IMAGE.long(), 2), RuntimeError, "int64"),
    ],
)
def test_refusals(arguments, error, words, backend):
    with pytest.raises(error, match=words):
        F.max_pool2d(*arguments)


WINDOW = ((2, 2), (2, 2), (0, 0), (1, 1))


@pytest.mark.parametrize("namespace", own_namespaces(OP))
@pytest.mark.parametrize(
    "arguments",
    [
        (IMAGE, (2,), (2, 2), (0, 0), (1, 1), False),
        (IMAGE, (2, 2), (2, 0), (0, 0), (1, 1), False),
        (IMAGE, (2, 2), (2, 2), (2, 0), (1, 1), False),
        (IMAGE, (2, 2), (2, 2), (0, 0), (2**62, 1), False),
        (IMAGE, (2**40, 2), (1, 1), (2**39, 0), (1, 1), False),
        (IMAGE, (9, 2), (1, 1), (0, 0), (1, 1), False),
        (IMAGE[0], *WINDOW, False),
        (IMAGE[:, :0], *WINDOW, False),
        (IMAGE.int(), *WINDOW, False),
    ],
    ids=lambda arguments: str(arguments[1:]),
)
def test_op_refuses_nonsense(arguments, namespace):
    with pytest.raises(RuntimeError, match="expected"):
        getattr(torch.ops, namespace).max_pool2d(*arguments)


@pytest.mark.parametrize("namespace", own_namespaces(OP))
def test_backward_ops_refuse_what_does_not_fit(namespace):
    ops = getattr(torch.ops, namespace)
    backward, gather = ops.max_pool2d_backward, ops.max_pool2d_gather
    output, tap = ops.max_pool2d(IMAGE, *WINDOW, False)
    for size in ([1, 2, 5, 8], [1, 3, 8, 8], [1, 2, 8], [1, 2, 8, -8], [1, 2, 8, 2**62]):
        with pytest.raises(RuntimeError, match="expected"):
            backward(output, tap, size, *WINDOW)
    for other in (tap[..., :2], tap.int(), tap[:, :1], tap[0]):
        with pytest.raises(RuntimeError, match="expected"):
            backward(output, other, IMAGE.shape, *WINDOW)
        with pytest.raises(RuntimeError, match="expected"):
            gather(IMAGE, other, *WINDOW)


@pytest.mark.parametrize("namespace", own_namespaces(OP))
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_a_tap_outside_the_window_takes_and_gives_nothing(channels_last, namespace):
    ops = getattr(torch.ops, namespace)
    x = make_tensor((1, 2, 8, 8), channels_last=channels_last)
    output, tap = ops.max_pool2d(x, (3, 3), (2, 2), (1, 1), (1, 1), False)
    window = ((3, 3), (2, 2), (1, 1), (1, 1))
    tap.fill_(200)
    assert not ops.max_pool2d_gather(x, tap, *window).any()
    assert not ops.max_pool2d_backward(output, tap, x.shape, *window).any()
    tap.fill_(0)  # the upper left tap, which the windows at the upper and left edge do not have
    gathered = ops.max_pool2d_gather(x, tap, *window)
    assert not gathered[..., 0, :].any()
    assert torch.equal(gathered[..., 1:, 1:], x[..., 1:7:2, 1:7:2])
