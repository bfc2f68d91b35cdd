"""The section of bench/results/kernels.md on the Triton kernels."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

import kernels_triton  # noqa: E402


def row(kernel, case, target, registers, shared_bytes=0, spill_bytes=0, instructions=()):
    return {
        "kernel": kernel,
        "case": case,
        "target": target,
        "registers": registers,
        "shared_bytes": shared_bytes,
        "spill_bytes": spill_bytes,
        "instructions": list(instructions),
    }


def test_a_kernel_has_a_row_for_each_dtype_with_the_most_that_it_takes():
    found = [
        row("b_kernel", "forward, float16, nchw", 80, 40, 1024, instructions=["mma.sync"]),
        row("b_kernel", "forward, all of the epilogue, float16, channels_last", 80, 60, 512, 8),
        row("b_kernel", "forward, float16, nchw", 90, 50, 2048, instructions=["wgmma.mma_async"]),
        row("a_kernel", "forward, float32, nchw", 75, 30),
    ]
    assert kernels_triton.rows(found) == [
        ["`a_kernel`", "float32", "30", "", "", "", "", "0", "0", ""],
        ["`b_kernel`", "float16", "", "60", "50", "", "", "2048", "8", "mma.sync, wgmma.mma_async"],
    ]
    assert len(kernels_triton.TITLE) == 10
