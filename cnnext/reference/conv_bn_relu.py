"""The fused convolution, batch norm, residual and ReLU, written one by one."""

from __future__ import annotations

from typing import Any

import torch

from cnnext.reference.batch_norm import batch_norm
from cnnext.reference.conv2d import conv2d


def conv_bn_relu(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    bn_weight: torch.Tensor | None,
    bn_bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    residual: torch.Tensor | None = None,
    relu: bool = True,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    **geometry: Any,
) -> torch.Tensor:
    """``relu(batch_norm(conv2d(input, weight, bias)) + residual)``; ``geometry`` is stride, padding, dilation, groups.

    The running statistics are moved in training.
    """
    output = conv2d(input, weight, bias, **geometry)
    output = batch_norm(output, running_mean, running_var, bn_weight, bn_bias, training, momentum, eps)
    if residual is not None:
        output = output + residual
    return torch.relu(output) if relu else output
