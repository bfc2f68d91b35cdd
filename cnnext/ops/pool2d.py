"""pool2d: the pool of the book, over one image."""

from __future__ import annotations

import torch

from cnnext.ops.arguments import require_tensor
from cnnext.ops.avg_pool2d import avg_pool2d
from cnnext.ops.max_pool2d import IntOrPair, max_pool2d


def pool2d(X: torch.Tensor, pool_size: IntOrPair, mode: str = "max") -> torch.Tensor:  # noqa: N803
    """Maximum or average of every window of one image.

    ``output[i, j]`` is that of ``X[i : i + R, j : j + S]``.

    Args:
        X: shape (H, W); float32, float64, float16 or bfloat16.
        pool_size: (R, S), or an int for both, no larger than the image.
        mode: ``"max"`` or ``"avg"``.

    Returns:
        Shape (H − R + 1, W − S + 1), same dtype.

    Raises:
        TypeError: ``X`` is not a tensor, or ``pool_size`` not made of integers.
        RuntimeError: ``X`` has another rank, or no window fits.
        ValueError: ``mode`` is neither.

    Source: "Dive into Deep Learning", section 7.5.
    """
    require_tensor(X, "X")
    if X.dim() != 2:
        raise RuntimeError(f"expected `X` with 2 dimensions, but got shape {list(X.shape)}")
    if mode == "max":
        output = max_pool2d(X[None], pool_size, stride=1)
        assert isinstance(output, torch.Tensor)
        return output[0]
    if mode == "avg":
        return avg_pool2d(X[None], pool_size, stride=1)[0]
    raise ValueError(f"argument `mode` must be 'max' or 'avg', but got {mode!r}")
