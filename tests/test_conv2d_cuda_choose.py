"""The chooser of conv2d's CUDA kernels: what it takes on which device, and what it says of the rest. No GPU needed."""

import emulated
import pytest
import torch
from conv2d_chooser import DTYPES, PASSES, T4, Shape, explain

pytestmark = pytest.mark.skipif(emulated.unavailable() is not None, reason=str(emulated.unavailable()))

RESNET_64 = Shape((32, 64, 56, 56), 64, padding=1)
RESNET_512 = Shape((32, 512, 7, 7), 512, padding=1)


@pytest.mark.parametrize(
    ("shape", "which", "taken"),
    [
        (Shape((64, 256, 56, 56), 256, padding=1), "forward", "implicit_gemm:128x128"),
        (RESNET_64, "forward", "implicit_gemm:128x64"),
        (RESNET_64, "backward_input", "implicit_gemm:128x64"),
        (Shape((1, 512, 7, 7), 512, padding=1), "forward", "implicit_gemm:64x32"),
        (Shape((128, 1, 28, 28), 6, kernel=5, padding=2), "forward", "direct"),
        (Shape((8, 32, 56, 56), 32, padding=1, groups=32), "forward", "direct"),
        (Shape((8, 32, 56, 56), 32, padding=1, groups=32), "backward_weight", "direct"),
    ],
    ids=str,
)
def test_what_is_taken(shape, which, taken):
    assert explain(shape, which)[0] == taken


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("which", PASSES)
def test_every_candidate_not_taken_has_its_reason(which, dtype):
    candidates = {"direct", "implicit_gemm", "tensor_core", "winograd_2x3", "winograd_4x3"}
    for shape in (RESNET_64, RESNET_512, Shape((2, 6, 9, 9), 6, groups=6)):
        taken, _, reasons = explain(shape, which, dtype)
        assert {taken.split(":")[0]} | {name for name in reasons if ":" not in name} >= candidates
        assert taken not in reasons
        assert all(reasons.values())


@pytest.mark.parametrize(
    ("shape", "which", "words"),
    [
        (Shape((1 << 21, 8, 40, 40), 8), "forward", "the batch has 2^31 pixels or more"),
        (Shape((1, 1024, 2048, 2048), 8), "forward", "an image has 2^31 elements or more"),
        (Shape((1, 1 << 20, 4, 4), 1 << 12), "forward", "the weight has 2^31 elements or more"),
        (Shape((1, 8, 90, 90), 8, stride=9), "backward_input", "more phases than the kernel's table of 8"),
        (Shape((1, 8, 4, 4), 1 << 22, kernel=1), "forward", "more than a grid's 65535 tiles"),
        (Shape((1, 1 << 17, 4, 4), 1 << 17, groups=1 << 17), "forward", "more than a grid's 65535"),
    ],
    ids=str,
)
def test_what_the_implicit_gemm_cannot_run_goes_to_direct(shape, which, words):
    for forced in (None, "implicit_gemm"):  # what is impossible is not forced either
        taken, _, reasons = explain(shape, which, forced=forced)
        assert taken == "direct"
        assert words in reasons["implicit_gemm"]


def test_few_channels_are_a_matter_of_speed_and_can_be_forced():
    few = Shape((128, 1, 28, 28), 6, kernel=5, padding=2)
    assert "fewer than 8 output channels" in explain(few)[2]["implicit_gemm"]
    taken, _, reasons = explain(few, forced="implicit_gemm:64x64")
    assert taken == "implicit_gemm:64x64"
    assert reasons["direct"] == reasons["implicit_gemm:128x128"].replace("tile", "algorithm")
    assert explain(RESNET_64, forced="direct")[0] == "direct"


def test_tiles_are_compared_by_their_estimate():
    _, _, reasons = explain(RESNET_64)
    assert all("times as long by estimate" in reasons[f"implicit_gemm:{t}"] for t in ("128x128", "64x64", "64x32"))


def test_splits_fill_the_device_and_bound_the_length_of_a_sum():
    _, on_a100, _ = explain(RESNET_64, "backward_weight")
    _, on_t4, _ = explain(RESNET_64, "backward_weight", device=T4)
    assert on_a100 > on_t4 > 1
    assert explain(Shape((1, 64, 8, 8), 64), "backward_weight")[1] == 1  # 36 pixels
    long = Shape((64, 512, 64, 64), 512, padding=1)
    _, splits, _ = explain(long, "backward_weight")
    assert 64 * 64 * 64 / splits <= 16384
    assert explain(RESNET_64, "forward")[1] == 1


def test_choice_is_the_same_in_both_layouts():
    for which in PASSES:
        assert explain(RESNET_512, which)[:2] == explain(RESNET_512, which, channels_last=True)[:2]
    assert explain(RESNET_64, dtype=torch.float64)[0] == "implicit_gemm:64x64 float64"
    assert explain(RESNET_64, dtype=torch.bfloat16, forced="implicit_gemm")[0] == "implicit_gemm:64x64x16"
