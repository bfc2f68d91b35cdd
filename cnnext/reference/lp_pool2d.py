"""Lp pooling of whole windows, written as its definition."""

from __future__ import annotations

import torch

IntOrPair = int | tuple[int, int]


def lp_pool2d(
    input: torch.Tensor, norm_type: float, kernel_size: IntOrPair, stride: IntOrPair | None = None
) -> torch.Tensor:
    """``(Σ |x|^norm_type)^(1 / norm_type)`` over the x of each window; (…, H, W) to (…, P, Q)."""
    r, s = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    stride = (r, s) if stride is None else stride
    stride_h, stride_w = (stride, stride) if isinstance(stride, int) else stride
    windows = input.unfold(-2, r, stride_h).unfold(-2, s, stride_w)  # [..., p, q, r, s]
    return torch.linalg.vector_norm(windows, norm_type, dim=(-2, -1))
