"""Transposed convolution, written as its definition."""

from __future__ import annotations

import torch

IntOrPair = int | tuple[int, int]


def conv_transpose2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    output_padding: IntOrPair = 0,
    groups: int = 1,
    dilation: IntOrPair = 1,
) -> torch.Tensor:
    """Every pixel times every tap, added where it belongs on a canvas, of which ``padding`` is cut off then.

    (N, C, H, W) and (C, K / groups, R, S) to (N, K, P, Q).
    """
    (sh, sw), (ph, pw), (eh, ew), (dh, dw) = (
        (value, value) if isinstance(value, int) else value for value in (stride, padding, output_padding, dilation)
    )
    n, c, h, w = input.shape
    _, k, r, s = weight.shape
    rows, columns = (h - 1) * sh + 1, (w - 1) * sw + 1  # from the first pixel to the last, stride apart
    canvas = input.new_zeros(n, groups * k, rows + dh * (r - 1) + eh, columns + dw * (s - 1) + ew)
    for i in range(r):
        for j in range(s):
            taps = weight[:, :, i, j].unflatten(0, (groups, c // groups))
            part = torch.einsum("ngchw,gck->ngkhw", input.unflatten(1, (groups, c // groups)), taps).flatten(1, 2)
            canvas[:, :, i * dh : i * dh + rows : sh, j * dw : j * dw + columns : sw] += part
    output = canvas[:, :, ph : canvas.shape[2] - ph, pw : canvas.shape[3] - pw]
    return output if bias is None else output + bias[:, None, None]
