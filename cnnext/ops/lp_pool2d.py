"""lp_pool2d: the Lp norm of each window, between the sum (p = 1) and the maximum (p = ∞) of magnitudes."""

from __future__ import annotations

import math
from typing import Any

import torch

from cnnext.ops.arguments import require_tensor
from cnnext.ops.avg_pool2d import avg_pool2d
from cnnext.ops.max_pool2d import max_pool2d


def lp_pool2d(
    input: torch.Tensor,
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    ceil_mode: bool = False,
) -> torch.Tensor:
    """Lp pooling.

    ``output[n, c, p, q] = (Σ_{r,s} |input[n, c, p·stride + r, q·stride + s]|^norm_type)^(1 / norm_type)``

    Args:
        input: shape (N, C, H, W) or (C, H, W); float32, float64, float16 or bfloat16.
        norm_type: above zero, ``inf`` included; need not be an integer.
        kernel_size: an int or a pair ≥ 1.
        stride: an int or a pair ≥ 1; ``kernel_size`` if None.
        ceil_mode: also pool the incomplete windows at the lower and right edge.

    Returns:
        Shape (N, C, P, Q) or (C, P, Q), same dtype.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: ``norm_type`` is not above zero.
        RuntimeError: the shapes or values do not fit.

    The sum is avg_pool2d's with a divisor of one, the maximum max_pool2d's. The gradient of a window of zeros is
    zero. Equal to ``torch.nn.functional.lp_pool2d`` where that is a norm: torch takes powers of the signed values
    (NaN for negative ones with a fractional or odd ``norm_type``), and weighs the incomplete windows of
    ``ceil_mode`` as if they were complete.
    """
    require_tensor(input, "input")
    if isinstance(norm_type, bool) or not isinstance(norm_type, (int, float)):
        raise TypeError(f"argument `norm_type` must be a number, but got {norm_type!r}")
    if not norm_type > 0:
        raise ValueError(f"argument `norm_type` must be above zero, but got {norm_type!r}")
    if math.isinf(norm_type):
        largest: Any = max_pool2d(input.abs(), kernel_size, stride, 0, 1, ceil_mode)
        return largest
    powers = input.abs() if norm_type == 1 else _power(input.abs(), norm_type)
    sums = avg_pool2d(powers, kernel_size, stride, 0, ceil_mode, True, 1)
    return sums if norm_type == 1 else _power(sums, 1 / norm_type)


def _power(values: torch.Tensor, exponent: float) -> torch.Tensor:
    """``values ** exponent`` of non-negative values; where they are zero, so is the gradient, instead of infinite."""
    if exponent > 1:
        return values.pow(exponent)
    zero = values == 0
    return values.masked_fill(zero, 1).pow(exponent).masked_fill(zero, 0)
