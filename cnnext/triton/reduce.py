"""Split reductions: how many programs share a sum, and adding up what they leave."""

from __future__ import annotations

import torch
import triton

from cnnext.triton.launch import launch, target_of
from cnnext.triton.reduce_kernel import SUM_PARTIALS


def splits_for(like: torch.Tensor, programs: int, steps: int, least_steps: int = 8) -> int:
    """Into how many parts to cut sums of ``steps`` steps, of which there are ``programs``: enough for the device.

    Each part has at least ``least_steps`` steps, for a partial sum has to be written and read again; each but the last
    has ⌈steps / parts⌉.
    """
    wanted = triton.cdiv(2 * target_of(like).processors, max(programs, 1))
    splits = max(1, min(wanted, steps // least_steps))
    return max(1, triton.cdiv(steps, triton.cdiv(steps, splits)))  # so that no part is empty


def sum_partials(partial: torch.Tensor, output: torch.Tensor) -> None:
    """Write Σ_j ``partial[j]`` to ``output``, which has the dtype it likes and as many values as a row."""
    splits, count = partial.shape[0], output.numel()
    if count == 0:
        return
    launch(
        SUM_PARTIALS,
        partial,
        lambda config: (triton.cdiv(count, config["BLOCK"]),),
        {"partial_ptr": partial, "y_ptr": output, "count": count, "splits": splits},
        {},
        hints=(count,),
    )
