"""One-dimensional convolution, written as its definition."""

from __future__ import annotations

import torch


def conv1d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> torch.Tensor:
    """``bias[k] + Σ_{c,s} input[n, c, q·stride − padding + s·dilation] · weight[k, c, s]``; (N, C, L) to (N, K, Q)."""
    k, group_c, taps = weight.shape
    padded = torch.nn.functional.pad(input, (padding, padding))
    windows = padded.unfold(2, dilation * (taps - 1) + 1, stride)[..., ::dilation]  # [n, c, q, s]
    windows = windows.unflatten(1, (groups, group_c))  # [n, g, c, q, s]
    output = torch.einsum("ngcqs,gkcs->ngkq", windows, weight.unflatten(0, (groups, k // groups))).flatten(1, 2)
    return output if bias is None else output + bias[:, None]
