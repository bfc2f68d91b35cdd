import dataclasses

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
    cases,
    make_tensor,
)

OP = "conv2d"


def cut(case):
    """The same layer on one image of at most 15 × 15: every tile of channels, in a moment."""
    n, c, h, w = case.input
    return dataclasses.replace(case, input=(min(n, 1), c, min(h, 15), min(w, 15)))


def reference_conv2d(x, weight, bias=None, padding=0, **arguments):
    if padding == "valid":
        padding = 0
    elif padding == "same":
        total = [arguments["dilation"] * (size - 1) for size in weight.shape[2:]]
        before = [t // 2 for t in total]
        x = torch_functional.pad(x, (before[1], total[1] - before[1], before[0], total[0] - before[0]))
        padding = 0
    return reference.conv2d(x, weight, bias, padding=padding, **arguments)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", cases.CONV2D_EDGES, ids=str)
def test_forward_and_gradients_match_reference(case, dtype, channels_last, backend):
    tensors = case.tensors(dtype, channels_last)
    output = F.conv2d(*tensors, **case.arguments)
    assert_as_exact_as_torch(output, reference_conv2d, torch_functional.conv2d, *tensors, **case.arguments)
    assert_gradients_as_exact_as_torch(F.conv2d, reference_conv2d, torch_functional.conv2d, *tensors, **case.arguments)


@pytest.mark.parametrize("case", [cut(case) for case in cases.CONV2D_CHAPTERS], ids=str)
def test_layers_of_the_chapters_match_reference(case):
    with cnnext.backend("cpu"):
        for channels_last in (False, True):
            tensors = case.tensors(torch.float32, channels_last)
            assert_as_exact_as_torch(
                F.conv2d(*tensors, **case.arguments),
                reference_conv2d,
                torch_functional.conv2d,
                *tensors,
                **case.arguments,
            )
        assert_gradients_as_exact_as_torch(
            F.conv2d, reference_conv2d, torch_functional.conv2d, *tensors, **case.arguments
        )


@pytest.mark.parametrize("input_last", [False, True])
@pytest.mark.parametrize("weight_last", [False, True])
def test_layout_is_kept(input_last, weight_last):
    x = make_tensor((2, 8, 6, 6), channels_last=input_last, requires_grad=True)
    weight = make_tensor((4, 8, 3, 3), channels_last=weight_last)
    with cnnext.backend("cpu"):
        output = F.conv2d(x, weight)
    last = torch.channels_last if input_last or weight_last else torch.contiguous_format
    assert output.is_contiguous(memory_format=last)
    (grad,) = torch.autograd.grad(output, x, torch.ones_like(output))
    assert grad.is_contiguous(memory_format=last)


def test_unbatched_and_non_contiguous(backend):
    x, weight = make_tensor((9, 8, 6)).permute(2, 0, 1), make_tensor((4, 12, 3, 3), seed=1)[:, ::2]
    assert_as_exact_as_torch(
        F.conv2d(x, weight), lambda a, b: reference.conv2d(a[None], b)[0], torch_functional.conv2d, x, weight
    )


def test_nan_and_infinity_go_where_torch_puts_them(backend):
    x, weight = make_tensor((1, 3, 9, 9)), make_tensor((4, 3, 3, 3), seed=1)
    x[0, 1, 4, 4], x[0, 2, 0, 8] = torch.nan, torch.inf
    assert_as_exact_as_torch(
        F.conv2d(x, weight, padding=1), reference.conv2d, torch_functional.conv2d, x, weight, padding=1
    )


@pytest.mark.parametrize(
    "arguments",
    [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": (2, 1)}, {"groups": 2, "stride": (2, 1)}],
    ids=str,
)
def test_derivatives_of_every_order(arguments):
    groups = arguments.get("groups", 1)
    x = make_tensor((2, 4, 6, 5), torch.float64, requires_grad=True)
    weight = make_tensor((4, 4 // groups, 3, 2), torch.float64, seed=1, requires_grad=True)
    bias = make_tensor((4,), torch.float64, seed=2, requires_grad=True)

    def function(x, weight, bias):
        with cnnext.backend("cpu"):
            return F.conv2d(x, weight, bias, **arguments)

    assert torch.autograd.gradcheck(function, (x, weight, bias))
    assert torch.autograd.gradgradcheck(function, (x, weight, bias))


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_opcheck(channels_last):
    x = make_tensor((2, 4, 6, 5), channels_last=channels_last, requires_grad=True)
    weight = make_tensor((6, 2, 3, 3), channels_last=channels_last, seed=1, requires_grad=True)
    bias = make_tensor((6,), seed=2, requires_grad=True)
    geometry = ((2, 1), (1, 0), (1, 1), 2, False, False)
    grad = torch.ops.cnnext.conv2d(x, weight, bias, *geometry).detach().requires_grad_()
    torch.library.opcheck(torch.ops.cnnext.conv2d.default, (x, weight, bias, *geometry))
    torch.library.opcheck(torch.ops.cnnext.conv2d.default, (x, weight, None, *geometry))
    torch.library.opcheck(torch.ops.cnnext.conv2d_backward_input.default, (grad, weight, x.shape, *geometry))
    torch.library.opcheck(torch.ops.cnnext.conv2d_backward_weight.default, (grad, x, weight.shape, *geometry))


def test_compiles_without_a_graph_break():
    x, weight, bias = make_tensor((2, 3, 8, 8)), make_tensor((4, 3, 3, 3), seed=1), make_tensor((4,), seed=2)
    with cnnext.backend("cpu"):
        compiled = torch.compile(lambda *tensors: F.conv2d(*tensors, padding=1).relu(), fullgraph=True)
        torch.testing.assert_close(compiled(x, weight, bias), F.conv2d(x, weight, bias, padding=1).relu())


def test_autocast_casts_as_torch(backend):
    x, weight = make_tensor((1, 3, 8, 8)), make_tensor((4, 3, 3, 3), seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert F.conv2d(x, weight).dtype == torch.bfloat16
        assert F.conv2d(x.double(), weight.double()).dtype == torch_functional.conv2d(x.double(), weight.double()).dtype


def test_same_bits_for_any_number_of_threads():
    case = cases.Conv2dCase("threads", (5, 24, 19, 17), 40, 3, padding=1)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            x, weight, bias = (tensor.detach().requires_grad_() for tensor in case.tensors())
            with cnnext.backend("cpu"):
                output = F.conv2d(x, weight, bias, padding=1)
            results.append((output, *torch.autograd.grad(output.square().sum(), (x, weight, bias))))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_flop_counter_knows_forward_and_backward():
    x = make_tensor((2, 3, 8, 8), requires_grad=True)
    weight = make_tensor((4, 3, 3, 3), seed=1, requires_grad=True)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter, cnnext.backend("cpu"):
        F.conv2d(x, weight, padding=1).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * (2 * 4 * 8 * 8) * (3 * 3 * 3)


IMAGE, WEIGHT = torch.ones(1, 4, 8, 8), torch.ones(6, 4, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (([[1.0]], WEIGHT), TypeError, "`input` must be a torch.Tensor"),
        ((IMAGE, WEIGHT, 3.0), TypeError, "`bias` must be a torch.Tensor"),
        ((torch.ones(8, 8), WEIGHT), RuntimeError, r"`input` with 4 dimensions, but got shape \[8, 8\]"),
        (
            (IMAGE, torch.ones(6, 4, 3)),
            RuntimeError,
            r"`weight` with 4 dimensions, but got shape \[6, 4, 3\]",
        ),
        ((IMAGE, torch.ones(6, 3, 3, 3)), RuntimeError, r"`input` with 3 channels"),
        ((IMAGE, WEIGHT, torch.ones(5)), RuntimeError, r"`bias` of shape \[6\], but got shape \[5\]"),
        ((IMAGE, WEIGHT, None, 0), RuntimeError, r"`stride` .* at least 1, but got \[0, 0\]"),
        ((IMAGE, WEIGHT, None, -1), RuntimeError, r"`stride` .* at least 1, but got \[-1, -1\]"),
        ((IMAGE, WEIGHT, None, 1.5), TypeError, "`stride` must be an int or a pair of ints, but got 1.5"),
        ((IMAGE, WEIGHT, None, (1, 2, 3)), RuntimeError, r"`stride` must be an int or a pair"),
        ((IMAGE, WEIGHT, None, 1, -1), RuntimeError, r"`padding` .* at least 0, but got \[-1, -1\]"),
        (
            (IMAGE, WEIGHT, None, 1, "full"),
            RuntimeError,
            "`padding` must be 'same', 'valid'.* but got 'full'",
        ),
        ((IMAGE, WEIGHT, None, 2, "same"), RuntimeError, "padding='same' is not supported for strided"),
        ((IMAGE, WEIGHT, None, 1, 0, 0), RuntimeError, r"`dilation` .* at least 1, but got \[0, 0\]"),
        ((IMAGE, WEIGHT, None, 1, 0, 1, 0), RuntimeError, "`groups` to be at least 1, but got 0"),
        ((IMAGE, WEIGHT, None, 1, 0, 1, 3), RuntimeError, "channels .* `groups`=3"),
        ((IMAGE, WEIGHT, None, 1, 0, 1, 2.0), TypeError, "`groups` must be an int"),
        (
            (IMAGE, WEIGHT, None, 1, 0, 4),
            RuntimeError,
            "the kernel spans 9 of dimension 2 but the padded input has 8",
        ),
        ((IMAGE, torch.ones(6, 4, 0, 3)), RuntimeError, "at least one tap"),
        ((IMAGE, torch.ones(0, 4, 3, 3)), RuntimeError, "output channels"),
        ((IMAGE, WEIGHT.double()), RuntimeError, "of one dtype, but got Float and Double"),
        ((IMAGE.long(), WEIGHT.long()), RuntimeError, "int64"),
        ((IMAGE, WEIGHT.to("meta")), RuntimeError, "on one device, but got cpu and meta"),
    ],
)
def test_refusals(arguments, error, words):
    with cnnext.backend("cpu"), pytest.raises(error, match=words):
        F.conv2d(*arguments)


def test_backward_ops_refuse_sizes_that_do_not_fit():
    geometry = ((1, 1), (0, 0), (1, 1), 1, False, False)
    grad = torch.ones(1, 6, 6, 6)
    for size in ([1, 4, 9, 8], [1, 3, 8, 8], [1, 4, 8], [-1, 4, 8, 8]):
        with pytest.raises(RuntimeError, match="expected"):
            torch.ops.cnnext.conv2d_backward_input(grad, WEIGHT, size, *geometry)
    for size in ([6, 4, 3, 4], [5, 4, 3, 3], [6, 4, 3, 0]):
        with pytest.raises(RuntimeError, match="expected"):
            torch.ops.cnnext.conv2d_backward_weight(grad, IMAGE, size, *geometry)
