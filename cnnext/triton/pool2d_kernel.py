# mypy: ignore-errors
"""What the pooling kernels share: where a value lies, where a window lies, exact division, and their configs.

Windows as in csrc/common/pool2d_shape.h: tap (r, s) of window (p, q) lies at h = p·stride_h − pad_h + r·dil_h, and w
likewise.
"""

import triton
import triton.language as tl

from cnnext.triton.launch import block


@triton.jit
def block_offsets(BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """Offsets of this program's BLOCK values; WIDE: in 64 bits."""
    block = tl.program_id(0)
    if WIDE:
        block = block.to(tl.int64)
    return block * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def place(offs, channels, height, width, LAST: tl.constexpr):
    """(n, c, h, w) of the value at ``offs`` of a dense tensor in the order N, C, H, W or, LAST, N, H, W, C."""
    if LAST:
        pixel = offs // channels
        row = pixel // width
        n, c, h, w = row // height, offs % channels, row % height, pixel % width
    else:
        row = offs // width
        plane = row // height
        n, c, h, w = plane // channels, plane % channels, row % height, offs % width
    return n, c, h, w


@triton.jit
def first_inside(start, DIL: tl.constexpr):
    """The first tap of a window that begins at ``start`` which is not before the image."""
    return tl.where(start < 0, (DIL - 1 - start) // DIL, 0)


@triton.jit
def divide(a, b):
    """a / b, rounded to nearest: Triton's own ``/`` is approximate for float32."""
    return a / b if a.dtype == tl.float64 else tl.div_rn(a, b)


CONFIGS = tuple(
    triton.Config({"BLOCK": size}, num_warps=warps) for size, warps in ((256, 4), (512, 4), (1024, 4), (4096, 16))
)


def pool_fits(config, target, kind, hints):
    """Whether a thread has room for its values: four in float64, else eight."""
    return config.kwargs["BLOCK"] <= 32 * config.num_warps * (4 if kind == "float64" else 8)


def pool_interpreted(kind, hints):
    """Blocks for the interpreter."""
    return {"BLOCK": block(hints[0], 2**16)}


def pool_cost(config, target, hints):
    """Blocks that give every multiprocessor four of them, and none of more than 1024 values. Hints: (values,)."""
    wanted = min(hints[0] / (4 * target.processors), 1024)
    return abs(config.kwargs["BLOCK"] - wanted)
