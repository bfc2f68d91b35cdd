"""The tensor-core convolution, emulated: every tile, type, layout and pass, on compute capability 8.0 and 7.5."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from conv2d_tensor_core import (
    PASSES,
    TYPES,
    call_for_text,
    check,
    description,
    functions,
    kernels,
    sum_of_pixels,
    tiles,
    to_tf32,
)
from emulated import unavailable
from emulator import build

from cnnext.testing import assert_as_exact_as_torch, cases, make_tensor
from cnnext.testing.cases import Conv2dCase

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=f"kernels are not emulated: {unavailable()}")

EDGES = [
    Conv2dCase("one pixel, one channel", (1, 1, 1, 1), 1, 1),
    Conv2dCase("prime everything", (3, 13, 7, 11), 17, (3, 5), padding=(1, 2)),
    Conv2dCase("exactly one tile of 128x128x64", (2, 64, 8, 8), 128, 1),
    Conv2dCase("one pixel more, one chunk more", (1, 72, 3, 43), 136, 1),
    Conv2dCase("one pixel and one channel less", (1, 40, 1, 127), 63, 1, bias=False),
    Conv2dCase("more images than pixels", (67, 8, 2, 1), 8, (2, 1)),
    Conv2dCase("groups", (2, 24, 6, 6), 48, 3, padding=1, groups=3),
    Conv2dCase("groups of odd channels", (2, 15, 6, 7), 10, 3, stride=(1, 2), padding=1, groups=5),
    Conv2dCase("stride 2", (2, 16, 9, 10), 24, 3, stride=2, padding=1),
    Conv2dCase("stride larger than the kernel", (2, 8, 11, 13), 16, 2, stride=(3, 4)),
    Conv2dCase("dilation", (2, 16, 13, 11), 8, 3, padding=(2, 3), dilation=(2, 3)),
    Conv2dCase("stride and dilation share a factor", (1, 8, 12, 12), 16, 3, stride=2, padding=2, dilation=2),
    Conv2dCase("padding wider than the kernel", (1, 3, 4, 4), 5, 2, padding=3),
    Conv2dCase("many taps", (1, 8, 12, 12), 8, 11, padding=5),
]


@pytest.mark.parametrize("kind", ["float16", "tf32"])  # bfloat16 differs from float16 in one instruction
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("case", EDGES, ids=str)
def test_edges_on_every_tile(case, which, kind):
    for channels_last in (True, False):
        for tile in tiles(case, which, kind, channels_last):
            check(case, which, kind, channels_last, tile)


@pytest.mark.parametrize("case", EDGES, ids=str)
def test_edges_on_turing(case):
    for which in PASSES:
        for channels_last in (True, False):
            for tile in tiles(case, which, "float16", channels_last):
                if tile != "128x128":  # needs cp.async
                    check(case, which, "float16", channels_last, tile, architecture=75)


def cut(name: str, size: int, images: int = 1) -> Conv2dCase:
    case = next(case for case in cases.CONV2D_CHAPTERS if case.name == name)
    n, c, h, w = case.input
    return dataclasses.replace(case, input=(min(n, images), c, min(h, size), min(w, size)))


LAYERS = [
    cut("LeNet 1", 28),
    cut("LeNet 2", 14, 2),
    cut("VGG-11 1, 3 channels", 16),
    cut("VGG-11 2", 10),
    dataclasses.replace(cut("VGG-11 7", 3), out=96),
    cut("ResNet-18 stem, 3 channels, 224", 19),
    cut("ResNet-18 64", 12),
    cut("ResNet-18 64 to 128", 12),
    cut("ResNet-18 shortcut 64 to 128", 12),
    cut("ResNeXt groups of 16", 8),
]


@pytest.mark.parametrize("kind", ["float16", "tf32"])
@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_layers_of_the_chapters(case, kind):
    for which in PASSES:
        for channels_last in (True, False):
            check(case, which, kind, channels_last)


@pytest.mark.parametrize("which", PASSES[:2])
def test_layout_of_the_weight_is_its_own(which):
    case = Conv2dCase("layouts", (1, 16, 6, 5), 24, 3, padding=1)
    for channels_last in (True, False):
        check(case, which, "float16", channels_last, weight_last=not channels_last)


@pytest.mark.parametrize("side", [(1, 16411), (16411, 1)], ids=str)
def test_weight_gradient_of_images_longer_than_2_to_the_14(side):
    case = Conv2dCase("long image", (1, 8, *side), 8, 3, padding=1)
    for channels_last in (True, False):
        check(case, "backward_weight", "float16", channels_last)


@pytest.mark.parametrize("kind", ["float16", "tf32"])
def test_weights_that_are_packed_from_global_memory(kind):
    channels = {"float16": 1357, "tf32": 677}[kind]  # whose 9 taps do not fit into the block's shared memory
    case = Conv2dCase("odd channels, many", (1, channels, 3, 3), 3, 3)
    for channels_last in (True, False):
        check(case, "forward", kind, channels_last, "64x32")


def test_every_kernel_of_the_table_was_run():
    case = Conv2dCase("groups", (2, 24, 6, 6), 48, 3, padding=1, groups=3)
    build.control().reset_counters()
    for which, tile, loader in kernels():
        for kind in TYPES:
            check(case, which, kind, loader == "vector", tile)
    ran = set(build.control().counters())
    wanted = {f"conv2d_{w}_tensor_core_{t}_{how}_{kind}" for w, t, how in kernels() for kind in TYPES}
    helpers = {
        "conv2d_tensor_core_pack_kernel",
        "conv2d_tensor_core_bias_kernel",
        "conv2d_backward_weight_reduce_kernel",
    }
    assert wanted | helpers == ran


@pytest.mark.parametrize("which", PASSES)
def test_memory_is_used_as_the_hardware_likes(which):
    """Sectors and wavefronts of channels_last layers, over their ideals."""
    case = Conv2dCase("ResNet-18 64 to 128, cut", (1, 64, 8, 16), 128, 3, padding=1)
    control = build.control()
    for of, tile, loader in kernels():
        if of != which or loader != "vector":
            continue
        for kind in TYPES:
            control.reset_counters()
            control.set_sampled_blocks(0)
            check(case, which, kind, True, tile)
            counted = control.counters()[f"conv2d_{which}_tensor_core_{tile}_{loader}_{kind}"]
            for what, unit, limit in [
                ("global_load", "sectors", 1.15),
                ("global_store", "sectors", 1.15),
                ("shared_load", "wavefronts", 1.1),
                ("shared_store", "wavefronts", 1.1),
            ]:
                ratio = counted[f"{what}_{unit}"] / counted[f"{what}_ideal_{unit}"]
                assert ratio <= limit, f"{tile} {kind}: {what} {unit} {ratio:.2f} times the ideal"


@pytest.mark.parametrize("which", PASSES)
def test_same_bits_for_any_order_of_warps(which):
    case = Conv2dCase("order", (2, 16, 7, 7), 24, 3, padding=1)
    control, results = build.control(), []
    try:
        for order in ("forward", "reversed", "random"):
            control.set_order(order)
            results.append(check(case, which, "float16", True))
    finally:
        control.set_order("forward")
    assert all(torch.equal(results[0], other) for other in results[1:])


def explain(case: Conv2dCase, which: str, kind: str, channels_last: bool, architecture: int, processors: int) -> str:
    device = np.array([architecture, processors], np.int64)
    return call_for_text("explain_tensor_core", description(case, which, kind, channels_last, channels_last), device)


def test_choice_follows_shape_layout_and_device():
    wide = Conv2dCase("wide", (32, 256, 56, 56), 256, 3, padding=1)
    assert explain(wide, "forward", "float16", True, 80, 108).startswith("128x128 vector")
    assert "128x128: it has no kernel that gathers" in explain(wide, "forward", "float16", False, 80, 108)
    assert "128x128: it needs cp.async" in explain(wide, "forward", "float16", True, 75, 40)
    small = Conv2dCase("small", (1, 64, 14, 14), 32, 3, padding=1)
    assert explain(small, "forward", "float16", True, 80, 108).startswith("64x32 vector")
    assert "128x64: it has no kernel for weight gradients" in explain(
        wide, "backward_weight", "bfloat16", True, 90, 132
    )


@pytest.mark.parametrize(
    ("changes", "which", "kind", "architecture", "reason"),
    [
        ({}, "forward", "float16", 70, "compute capability 7.5"),
        ({}, "forward", "bfloat16", 75, "TF32 from compute capability 8.0 on"),
        ({}, "forward", "tf32", 75, "TF32 from compute capability 8.0 on"),
        ({"kernel": 12, "input": (1, 8, 32, 32)}, "forward", "float16", 80, "more taps"),
        ({"kernel": (1, 31), "input": (1, 8, 32, 32)}, "forward", "float16", 80, "more taps"),
        ({"stride": 9, "input": (1, 8, 32, 32)}, "backward_input", "float16", 80, "more phases"),
        ({"input": (1 << 20, 8, 64, 64)}, "forward", "float16", 80, "counted in 32 bits"),
        ({"input": (1, 1 << 20, 32, 32)}, "forward", "float16", 80, "2^29 elements"),
        (
            {"input": (1, 1 << 17, 4, 4), "out": 1 << 17, "groups": 1 << 17},
            "forward",
            "float16",
            80,
            "more than a grid's 65535",
        ),
    ],
)
def test_refusals_say_why(changes, which, kind, architecture, reason):
    case = dataclasses.replace(Conv2dCase("plain", (1, 8, 8, 8), 8, 3), **changes)
    assert reason in explain(case, which, kind, True, architecture, 40)


def test_strides_that_forward_and_weight_gradient_know_are_not_refused():
    case = Conv2dCase("stride 9", (1, 8, 32, 32), 8, 3, stride=9)
    for which in ("forward", "backward_weight"):
        check(case, which, "float16", True)


def shifted(tensor: torch.Tensor) -> torch.Tensor:
    """The same tensor one element further in memory: aligned to nothing but its elements."""
    room = torch.full((tensor.numel() + 1,), torch.nan, dtype=tensor.dtype)
    return room.as_strided(tensor.shape, tensor.stride(), 1).copy_(tensor)


def test_views_that_are_not_aligned_are_gathered():
    case = Conv2dCase("views", (2, 16, 6, 6), 24, 3, padding=1)
    x, weight, bias = case.tensors(torch.float16, channels_last=True)
    grad = make_tensor((2, 24, 6, 6), torch.float16, channels_last=True, seed=4)
    arguments = ((1, 1), (1, 1), (1, 1), 1, False, False)
    ops, control = torch.ops.cnnext_emulated, build.control()
    for move, loader in ((lambda tensor: tensor, "vector"), (shifted, "gather")):
        control.reset_counters()
        y = ops.conv2d(move(x), weight, move(bias), *arguments)
        grad_x = ops.conv2d_backward_input(move(grad), weight, x.shape, *arguments)
        grad_weight, grad_bias = ops.conv2d_backward_weight(move(grad), move(x), weight.shape, *arguments)
        ran = [name for name in control.counters() if "_tensor_core_" in name and name.endswith("_float16")]
        assert len(ran) == 3 and all(f"_{loader}_" in name for name in ran), ran
        for result, which, operands in (
            (y, "forward", (x, weight, bias)),
            (grad_x, "backward_input", (grad, weight, None)),
            (grad_weight, "backward_weight", (grad, x, None)),
        ):
            exact, peer = functions(case, which, (x.shape, weight.shape))
            assert_as_exact_as_torch(result, exact, peer, *operands)
        assert_as_exact_as_torch(grad_bias, sum_of_pixels, sum_of_pixels, grad)


@pytest.mark.parametrize("allowed", [True, False])
def test_float32_is_multiplied_as_tf32_only_where_that_is_allowed(allowed):
    case = Conv2dCase("TF32", (1, 16, 6, 6), 24, 3, padding=1)
    tensors = case.tensors()
    control = build.control()
    control.reset_counters()
    y = torch.ops.cnnext_emulated.conv2d(*tensors, (1, 1), (1, 1), (1, 1), 1, allowed, False)
    assert any(name.endswith("_tf32") for name in control.counters()) == allowed
    exact, peer = functions(case, "forward", ())
    rounded = (lambda a, b, c: peer(to_tf32(a), to_tf32(b), c)) if allowed else peer
    assert_as_exact_as_torch(y, exact, rounded, *tensors)
