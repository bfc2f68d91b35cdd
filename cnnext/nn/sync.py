"""torch.nn.SyncBatchNorm on our kernels, on the CPU too."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch

from cnnext import distributed
from cnnext.nn.layers import norm_arguments, normalise
from cnnext.ops.conv_bn_relu_stage import ConvBN

_agreed: WeakKeyDictionary[torch.nn.Module, Any] = WeakKeyDictionary()
"""Layers whose processes have been found to have the same number of channels, and the group of those."""


def group_of(norm: Any) -> Any:
    """The processes with which the norm shares its statistics now; None: with none. Asks them at the first time.

    Raises:
        RuntimeError: this process is not in the layer's group, or its channels are not those of the others.
    """
    if not isinstance(norm, torch.nn.SyncBatchNorm) or not norm.training:
        return None
    dist = torch.distributed
    if not dist.is_available() or not dist.is_initialized():
        return None
    group = norm.process_group or dist.group.WORLD
    if dist.get_world_size(group) == 1:
        return None
    if _agreed.get(norm) is not group:
        distributed.require_same_channels(norm.num_features, group)
        _agreed[norm] = group
    return group


class SyncBatchNorm(torch.nn.SyncBatchNorm):
    """``torch.nn.SyncBatchNorm`` through :mod:`cnnext.distributed`, for tensors on the CPU as on the GPU.

    In evaluation, and where there is one process, it is :func:`cnnext.functional.batch_norm`.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise (N, C, …) over all dimensions but the second, and over the processes in training.

        Raises:
            RuntimeError: this process is not in the layer's group, or its channels are not those of the others.
        """
        self._check_input_dim(input)
        self._check_non_zero_input_channels(input)
        group = group_of(self)
        if group is None:
            return normalise(self, input)
        mean, var, training, momentum = norm_arguments(self)
        settings = (self.weight, self.bias, mean, var, training, momentum, self.eps)
        return distributed.batch_norm(input, ConvBN(input, None, *settings, process_group=group))
