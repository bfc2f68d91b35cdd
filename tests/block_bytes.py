"""Bytes that a residual block reads and writes on the CUDA kernels: fused, and layer by layer.

Every kernel's tensors are counted once, as its launch declares them to the emulator, workspaces and packed weights
included. What the chain of layers leaves to torch (sum, ReLU and their gradients) is counted likewise: the arguments
and the results of each op.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import emulated
import torch
from emulator import build
from torch.utils._python_dispatch import TorchDispatchMode

import cnnext
import cnnext.functional as F
from cnnext.testing import make_tensor

COUNTED = {"relu", "add", "add_", "threshold_backward"}
"""The ops of torch's own that a chain of layers runs on activations."""


class Bytes(NamedTuple):
    forward: int
    backward: int


class _TorchBytes(TorchDispatchMode):
    """Adds up the bytes of the tensors that ops of torch's own read and write."""

    total = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        if op.namespace == "aten" and op._schema.name.removeprefix("aten::") in COUNTED:
            self.total += sum(t.numel() * t.element_size() for t in (*args, result) if isinstance(t, torch.Tensor))
        return result


def of_torch(x: torch.Tensor, weights: list[torch.Tensor], norms: list[torch.Tensor]) -> torch.Tensor:
    """The basic block, layer by layer."""
    y = x
    for i, weight in enumerate(weights):
        y = F.batch_norm(F.conv2d(y, weight, padding=1), None, None, norms[2 * i], norms[2 * i + 1], training=True)
        y = torch.relu(y if i == 0 else y + x)
    return y


def fused(x: torch.Tensor, weights: list[torch.Tensor], norms: list[torch.Tensor]) -> torch.Tensor:
    """The basic block in one."""
    stages = [
        F.ConvBN(weight, None, norms[2 * i], norms[2 * i + 1], training=True, padding=1)
        for i, weight in enumerate(weights)
    ]
    return F.residual_block(x, stages)


def count(block: Callable[..., torch.Tensor], dtype: torch.dtype, channels_last: bool, shape: Any) -> Bytes:
    """What ``block`` moves, with input, weights and the norms' parameters wanting gradients."""
    c = shape[1]
    x = make_tensor(shape, dtype, channels_last=channels_last, seed=1, requires_grad=True)
    weights = [
        make_tensor((c, c, 3, 3), dtype, channels_last=channels_last, seed=seed, requires_grad=True) for seed in (2, 3)
    ]
    norms = [make_tensor((c,), seed=seed, requires_grad=True) for seed in (4, 5, 6, 7)]
    grad = torch.empty_like(x, requires_grad=False).copy_(make_tensor(shape, dtype, seed=8))
    emulated.load("fast")
    emulator = build.control("fast")

    def moved(mode: _TorchBytes) -> int:
        return mode.total + sum(kernel["declared_bytes"] for kernel in emulator.counters().values())

    with cnnext.backend("emulated"), _TorchBytes() as mode:
        before = moved(mode)
        y = block(x, weights, norms)
        totals = [moved(mode) - before]
        y.backward(grad)
        totals.append(moved(mode) - before - totals[0])
    return Bytes(*totals)
