"""Every Triton kernel compiles for the GPUs it is for, without one: tensor cores, spills, shared memory.

This process interprets kernels; others compile them.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

ROOT = Path(__file__).resolve().parent.parent
TARGETS = (75, 80, 90, 100, 120)
SHARED_BYTES = {75: 64 << 10, 80: 163 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
TENSOR_CORES = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma", 120: "mma.sync"}  # Triton has none for 7.5
ON_TENSOR_CORES = ("float16", "tf32")  # bfloat16, too
ONE_OF_EACH = (
    "corr2d",
    "3x3 forward, all of the epilogue",
    "3x3 backward",
    "3x3 fused",
    "depthwise",
    "pool2d 2x2",
    "pool2d_backward 2x2",
    "gather 2x2",
    "adaptive 7",
    "with parameters",
    "batch_norm_relu",
)


def compiled(*arguments):
    """What ``python -m cnnext.triton.resources`` tells of the kernels that the arguments choose."""
    result = subprocess.run(
        [sys.executable, "-m", "cnnext.triton.resources", "--json", *map(str, arguments)],
        env={**os.environ, "TRITON_INTERPRET": "0", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    kernels = [json.loads(line) for line in result.stdout.splitlines()]
    assert kernels
    return kernels


def assert_fit(kernels):
    """Tensor cores multiply what they can, and a block's shared memory is there."""
    for kernel in kernels:
        assert kernel["shared_bytes"] <= SHARED_BYTES[kernel["target"]], kernel
        if kernel["matrix"] and any(kind in kernel["case"] for kind in ON_TENSOR_CORES):
            assert TENSOR_CORES.get(kernel["target"], "") in " ".join(kernel["instructions"]), kernel


def defined_kernels():
    """The names of all kernels of the package."""
    sources = (ROOT / "cnnext/triton").glob("*_kernel.py")
    return {name for source in sources for name in re.findall(r"^def (\w+_kernel)\(", source.read_text(), re.M)}


def test_the_report_tells_of_every_kernel():
    figures = json.loads((ROOT / "bench/results/kernels_triton.json").read_text())
    assert {(row["kernel"], row["target"]) for row in figures} == {(k, t) for k in defined_kernels() for t in TARGETS}
    assert_fit(figures)
    assert not any(row["spill_bytes"] for row in figures)
    report = (ROOT / "bench/results/kernels.md").read_text()
    assert all(f"| `{row['kernel']}` | " in report for row in figures)


def test_the_three_passes_of_conv2d_use_tensor_cores():
    names = ("forward", "backward_input", "backward_weight", "fused", "fused, weight")
    passes = [f"3x3 {name}, float16, channels_last" for name in names]
    kernels = compiled("--targets", 80, 90, 100, "--kinds", "float16", "--only", *passes)
    assert_fit(kernels)
    assert sum(kernel["matrix"] for kernel in kernels) == 15
    assert not any(kernel["spill_bytes"] for kernel in kernels)


def test_every_op_compiles():
    kernels = compiled("--targets", 75, "--kinds", "bfloat16", "--only", *ONE_OF_EACH)
    assert_fit(kernels)
    assert {kernel["kernel"] for kernel in kernels} == defined_kernels()


def test_nothing_is_compiled_where_kernels_are_interpreted():
    result = subprocess.run(
        [sys.executable, "-m", "cnnext.triton.resources"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert "kernels cannot be compiled where TRITON_INTERPRET=1" in result.stderr


def test_what_does_not_compile_is_named():
    program = """
        from unittest import mock
        from cnnext.triton import resources
        with mock.patch.object(resources.triton, "compile", side_effect=ValueError("no such instruction")):
            next(resources.resources([90], ["float32"], only=["corr2d"]))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    words = r"RuntimeError: corr2d_windows_kernel \[BLOCK_P: .*\] for sm_90, corr2d, .*: no such instruction"
    assert re.search(words, result.stderr), result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_for_every_target(target):
    kernels = compiled("--targets", target, "--kinds", "float16", "--only", *ONE_OF_EACH)
    assert_fit(kernels)
    assert not [kernel for kernel in kernels if kernel["spill_bytes"]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float16", "float32"])
@pytest.mark.parametrize(("place", "case"), [*enumerate(ONE_OF_EACH)], ids=ONE_OF_EACH)
def test_every_config_compiles_for_one_target(case, place, kind):
    """The targets take turns; all of them together are exhaustive."""
    assert_fit(compiled("--targets", TARGETS[place % 5], "--kinds", kind, "--every-config", "--only", case))


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("target", TARGETS)
def test_configs_chosen_without_measuring_do_not_spill(target):
    kernels = compiled("--targets", target)
    assert_fit(kernels)
    assert not [kernel for kernel in kernels if kernel["spill_bytes"]]


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_every_config_compiles(kind, target):
    assert_fit(compiled("--targets", target, "--kinds", kind, "--every-config", "--only", *ONE_OF_EACH))
