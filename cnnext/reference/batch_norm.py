"""Batch normalisation, written as its definition."""

from __future__ import annotations

import torch


def batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """``(input − mean) / √(var + eps) · weight + bias`` per channel, over (N, C, …).

    mean and var are the batch's (var biased) in training, where the running statistics are moved towards them
    (with the unbiased variance), and the running statistics otherwise.
    """

    def per_channel(values: torch.Tensor) -> torch.Tensor:
        return values.reshape(1, -1, *[1] * (input.dim() - 2))

    if training:
        values = input.transpose(0, 1).flatten(1)  # [c, n·…]
        count = values.shape[1]
        mean = values.mean(1)
        var = (values - mean[:, None]).square().mean(1)
        with torch.no_grad():
            if running_mean is not None:
                running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
            if running_var is not None:
                running_var.mul_(1 - momentum).add_(var * (count / (count - 1)), alpha=momentum)
    else:
        assert running_mean is not None and running_var is not None
        mean, var = running_mean, running_var
    output = (input - per_channel(mean)) / per_channel(torch.sqrt(var + eps))
    if weight is not None:
        output = output * per_channel(weight)
    return output if bias is None else output + per_channel(bias)
