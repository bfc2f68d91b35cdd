"""The bytes that the fused residual block moves on the CUDA kernels, beside those of its layers one by one."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import block_bytes  # noqa: E402
import torch  # noqa: E402

SHAPE = (16, 64, 28, 28)
TITLE = ["basic block", "pass", "fused, MB", "layer by layer, MB", "ratio"]


def rows() -> list[list[str]]:
    """A row for each dtype, layout and pass."""
    found = []
    for dtype in (torch.float32, torch.float16):
        for channels_last in (False, True):
            fused, unfused = (
                block_bytes.count(block, dtype, channels_last, SHAPE)
                for block in (block_bytes.fused, block_bytes.of_torch)
            )
            name = f"{str(dtype).removeprefix('torch.')}, {'NHWC' if channels_last else 'NCHW'}"
            passes = zip(("forward", "backward", "both"), (*fused, sum(fused)), (*unfused, sum(unfused)), strict=True)
            found += [[name, way, f"{a / 1e6:.1f}", f"{b / 1e6:.1f}", f"{a / b:.2f}"] for way, a, b in passes]
    return found


def section() -> list[str]:
    """The paragraphs of the report before the table of :func:`rows`."""
    return [
        "## What the fused residual block moves",
        f"Bytes that the CUDA kernels of a basic block read and write in training, on {list(SHAPE)}: each tensor of "
        "each launch counted once, workspaces and the partial sums of weight gradients included. What the layers leave "
        "to torch (sum, ReLU and their gradients) is counted by its arguments and results. In float16 the convolutions "
        "run on tensor cores, which are fed past registers: the activation between the convolutions is written for "
        "them, forward and backward. The backward pass keeps no mask and reads none without a residual, but the "
        "gradients of the convolutions read those of the norms from memory.",
    ]
