"""corr2d, written as its definition."""

import torch


def corr2d(input: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """``output[p, q] = Σ_{r,s} input[p + r, q + s] · kernel[r, s]``; (H, W) and (R, S) to (H − R + 1, W − S + 1)."""
    windows = input.unfold(0, kernel.shape[0], 1).unfold(1, kernel.shape[1], 1)  # [p, q, r, s]
    return (windows * kernel).sum((2, 3))
