"""What a call of ours costs the host beside torch's, on tensors so small that the kernels hardly count."""

from __future__ import annotations

import timeit
from functools import partial
from typing import Any

import torch

from cnnext.backends import AUTO, backend, choose
from cnnext.backends import TORCH as TORCH_BACKEND
from cnnext.bench.passes import prepare
from cnnext.bench.timing import Contender, spread, take_turns
from cnnext.testing.layers import OURS, TORCH, LayerCase

LIMITS = {False: 6e-6, True: 10e-6}
"""Seconds that a call may cost more than torch's, without gradients and with them."""
CHOICE_LIMIT = 2e-6
"""Seconds that a choice which is known may take."""
WINDOW = (("kernel_size", 2), ("stride", 2), ("padding", 0))
TINY = (
    LayerCase("corr2d", "tiny", (4, 4), (2, 2)),
    LayerCase("conv2d", "tiny", (1, 1, 4, 4), (1, 1, 3, 3), True, (("stride", 1), ("padding", 1))),
    LayerCase("max_pool2d", "tiny", (1, 1, 4, 4), arguments=WINDOW),
    LayerCase("avg_pool2d", "tiny", (1, 1, 4, 4), arguments=WINDOW),
    LayerCase("adaptive_avg_pool2d", "tiny", (1, 1, 4, 4), arguments=(("output_size", 1),)),
    LayerCase("batch_norm", "tiny", (1, 2, 4, 4), (2,), True),
)


def measure(name: str, device: torch.device, seconds: float = 0.3) -> list[dict[str, Any]]:
    """Rows of results, one for each op without gradients (a forward pass) and with them (a forward pass that saves).

    Args:
        name: of the backend whose calls.
        device: where.
        seconds: for each row, about.
    """
    rows = []
    for case in TINY:
        for gradients in (False, True):
            tensors = case.tensors(device=device)
            contenders = {
                "ours": Contender(_call(case, OURS, tensors, gradients), name),
                "torch": Contender(_call(case, TORCH, tensors, gradients), TORCH_BACKEND.name),
            }
            taken = take_turns(contenders, device, seconds, least=25)
            samples = [one.host_seconds or one.seconds for one in taken.values()]
            differences = [ours - theirs for ours, theirs in zip(*samples, strict=True)]
            ours, theirs, difference = (list(spread(values)) for values in (*samples, differences))
            rows.append(
                {
                    "op": case.op,
                    "gradients": gradients,
                    "ours": ours,
                    "torch": theirs,
                    "difference": difference,
                    "limit": LIMITS[gradients],
                }
            )
    return rows


def choice(device: torch.device, repeats: int = 20, calls: int = 2000) -> float:
    """Seconds that the backend ``auto`` takes to look up a convolution with weights and bias that it knows."""
    case = TINY[1]
    tensors, others = case.tensors(device=device), (1, 1, 1, 1)
    with backend(AUTO):
        case.call(OURS, tensors)
        ask = partial(choose, "conv2d", tensors[0], OURS.conv2d, tuple(tensors[1:]), others)
        ask()
        return min(timeit.repeat(ask, repeat=repeats, number=calls)) / calls


def _call(case: LayerCase, functions: Any, tensors: list[Any], gradients: bool) -> Any:
    if not gradients:
        return prepare(case, "forward", functions, tensors)
    leaves = [x if x is None else x.detach().clone() for x in tensors]
    for i, leaf in enumerate(leaves):
        if leaf is not None and i not in case.buffers:
            leaf.requires_grad_()
    return lambda: case.call(functions, leaves, True)
