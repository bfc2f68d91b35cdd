"""stochastic_pool2d: pool by drawing one of each window's activations, or by their expectation."""

from __future__ import annotations

from typing import Any

import torch

from cnnext.ops.arguments import pair, require_tensor
from cnnext.ops.avg_pool2d import avg_pool2d
from cnnext.ops.max_pool2d import max_pool2d


def stochastic_pool2d(
    input: torch.Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    training: bool = True,
) -> torch.Tensor:
    """Stochastic pooling.

    With ``a = max(input, 0)`` and ``probability[i] = a[i] / Σ_j a[j]`` over the window: in training one ``a[i]``
    drawn with its probability, otherwise the expectation ``Σ_i probability[i] · a[i]``.

    Args:
        input: shape (N, C, H, W) or (C, H, W), as it comes out of a ReLU; float32, float64, float16 or bfloat16.
        kernel_size: an int or a pair ≥ 1.
        stride: an int or a pair ≥ 1; ``kernel_size`` if None.
        padding: an int or a pair ≥ 0, at most half of ``kernel_size``; padding is never drawn.
        ceil_mode: also pool the incomplete windows at the lower and right edge.
        training: draw, from torch's generator of the device.

    Returns:
        Shape (N, C, P, Q) or (C, P, Q), same dtype. A window with nothing above zero gives zero.

    Raises:
        TypeError: an argument is of the wrong type.
        RuntimeError: the shapes or values do not fit.

    The draw is an exponential race: ``a[i] / e[i]`` with ``e[i]`` exponentially distributed is the largest at i with
    just that probability, so max_pool2d finds the winner. Every window draws with its probabilities; windows that
    overlap share their ``e``, and so draw alike more often than independent ones would. The gradient goes to the
    drawn activation. 16-bit inputs are raced and averaged in float32.
    Source: Zeiler and Fergus, "Stochastic Pooling for Regularization of Deep Convolutional Neural Networks", 2013.
    """
    require_tensor(input, "input")
    activations = input.clamp(min=0)
    if training:
        return _draw(activations, kernel_size, stride, padding, ceil_mode)
    window = pair(kernel_size, "kernel_size"), stride, padding, ceil_mode, True, 1
    wide = activations.float() if input.dtype in (torch.float16, torch.bfloat16) else activations
    sums = avg_pool2d(wide, *window)
    squares = avg_pool2d(wide.square(), *window)
    return (squares / sums.masked_fill(sums == 0, 1)).to(input.dtype)


def _draw(activations: torch.Tensor, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool) -> torch.Tensor:
    with torch.no_grad():
        dtype = torch.float64 if activations.dtype == torch.float64 else torch.float32
        race = activations / torch.empty_like(activations, dtype=dtype).exponential_()
        _, winner = max_pool2d(race, kernel_size, stride, padding, 1, ceil_mode, return_indices=True)
    return activations.flatten(-2).gather(-1, winner.flatten(-2)).reshape(winner.shape)
