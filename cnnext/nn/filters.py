"""Kernels of image processing, ready for :func:`cnnext.functional.corr2d`."""

from __future__ import annotations

import torch

from cnnext.ops.arguments import pair, require_tensor
from cnnext.ops.corr2d import corr2d

SOBEL_X = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
"""Answers to edges that stand upright: positive where the image grows brighter to the right; (3, 3)."""

SOBEL_Y = SOBEL_X.T.contiguous()
"""Answers to edges that lie level: positive where the image grows brighter downwards; (3, 3)."""

SHARPEN = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 5.0, -1.0], [0.0, -1.0, 0.0]])
"""The image plus its difference from its four neighbours' sum; the taps add up to one; (3, 3)."""


def box(size: int | tuple[int, int]) -> torch.Tensor:
    """The kernel that blurs by averaging: every tap is 1 / (R·S).

    Args:
        size: (R, S), or an int for both, at least 1.

    Returns:
        Shape (R, S), float32.

    Raises:
        TypeError: ``size`` is not made of ints.
        ValueError: it is below 1.
    """
    r, s = pair(size, "size")
    if r < 1 or s < 1:
        raise ValueError(f"argument `size` must be at least 1, but got {size!r}")
    return torch.full((r, s), 1.0 / (r * s))


def sobel_magnitude(input: torch.Tensor) -> torch.Tensor:
    """Strength of the edges: √(corr2d(input, SOBEL_X)² + corr2d(input, SOBEL_Y)²).

    Args:
        input: shape (H, W), at least 3 × 3; float32, float64, float16 or bfloat16.

    Returns:
        Shape (H − 2, W − 2), same dtype. Its gradient is zero where it is zero.

    Raises:
        TypeError, RuntimeError: as :func:`cnnext.functional.corr2d`.
    """
    require_tensor(input, "input")
    edges = [corr2d(input, kernel.to(input)) for kernel in (SOBEL_X, SOBEL_Y)]
    return torch.linalg.vector_norm(torch.stack(edges), dim=0)
