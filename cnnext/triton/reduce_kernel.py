# mypy: ignore-errors
"""The second half of a split reduction.      y[i] = Σ_j partial[j, i], j in [0, SPLITS)

Layout: partial is [SPLITS, COUNT], float32 or float64; y has COUNT values of any floating dtype.
Idea: whoever splits a sum among programs lets each write a row of its own, and the rows are added here in order. That
takes no atomics, so that the bits are the same every time.
"""

import triton
import triton.language as tl

from cnnext.triton.launch import Kernel, block


@triton.jit
def sum_partials_kernel(partial_ptr, y_ptr, count, splits, BLOCK: tl.constexpr):
    """Add up the rows of ``partial``."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < count
    total = tl.zeros((BLOCK,), partial_ptr.dtype.element_ty)
    for split in range(splits):
        total += tl.load(partial_ptr + split * count.to(tl.int64) + offs, mask=mask, other=0.0)
    tl.store(y_ptr + offs, total.to(y_ptr.dtype.element_ty), mask=mask)


SUM_PARTIALS = Kernel(
    sum_partials_kernel,
    configs=(triton.Config({"BLOCK": 256}, num_warps=4), triton.Config({"BLOCK": 1024}, num_warps=4)),
    cost=lambda config, target, hints: abs(hints[0] / target.processors - config.kwargs["BLOCK"]),
    interpreted=lambda kind, hints: {"BLOCK": block(hints[0], 2**16)},
)
