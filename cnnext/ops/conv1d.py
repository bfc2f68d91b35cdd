"""conv1d: one-dimensional convolution, for audio and other sequences, by way of conv2d."""

from __future__ import annotations

from typing import Any

import torch

from cnnext.ops.arguments import require_tensor
from cnnext.ops.conv2d import conv2d


def conv1d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> torch.Tensor:
    """One-dimensional convolution: conv2d on images of height one.

    ``output[n, k, q] = bias[k] + Σ_{c,s} input[n, c, q·stride − padding + s·dilation] · weight[k, c, s]``

    Args:
        input: shape (N, C, L) or (C, L); float32, float64, float16 or bfloat16.
        weight: shape (K, C / groups, S), of the same dtype and device.
        bias: shape (K).
        stride: an int or a sequence of one.
        padding: an int, a sequence of one, ``"same"`` or ``"valid"``.
        dilation: an int or a sequence of one.
        groups: divides C and K.

    Returns:
        Shape (N, K, Q) or (K, Q) with Q = ⌊(L + 2·padding − dilation·(S − 1) − 1) / stride⌋ + 1.

    Raises:
        TypeError: an argument is of the wrong type.
        RuntimeError: the shapes or values do not fit, or dtypes or devices differ.

    Accumulation, layouts and determinism are conv2d's.
    Equivalent: ``torch.nn.functional.conv1d(input, weight, bias, stride, padding, dilation, groups)``.
    """
    require_tensor(input, "input")
    require_tensor(weight, "weight")
    if input.dim() not in (2, 3):
        raise RuntimeError(f"expected `input` of shape [N, C, L] or [C, L], but got {list(input.shape)}")
    if weight.dim() != 3:
        raise RuntimeError(f"expected `weight` of shape [K, C / groups, S], but got {list(weight.shape)}")
    output = conv2d(
        input.unsqueeze(-2),
        weight.unsqueeze(-2),
        bias,
        (1, _single(stride, "stride")),
        padding if isinstance(padding, str) else (0, _single(padding, "padding")),
        (1, _single(dilation, "dilation")),
        groups,
    )
    return output.squeeze(-2)


def _single(value: Any, name: str) -> int:
    if isinstance(value, (tuple, list)) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"argument `{name}` must be an int or a sequence of one int, but got {value!r}")
    return value  # type: ignore[return-value]
