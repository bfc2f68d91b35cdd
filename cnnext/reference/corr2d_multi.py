"""corr2d with channels, written as sums of corr2d."""

import torch

from cnnext.reference.corr2d import corr2d


def corr2d_multi_in(input: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """``Σ_c corr2d(input[c], kernel[c])``; (C, H, W) and (C, R, S) to (P, Q)."""
    return torch.stack([corr2d(image, taps) for image, taps in zip(input, kernel, strict=True)]).sum(0)


def corr2d_multi_in_out(input: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """``corr2d_multi_in(input, kernel[k])`` for every k; (C, H, W) and (K, C, R, S) to (K, P, Q)."""
    return torch.stack([corr2d_multi_in(input, taps) for taps in kernel])
