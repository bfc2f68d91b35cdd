"""conv2d, written as its definition."""

import torch


def conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> torch.Tensor:
    """Sum over taps and input channels of a group; (N, C, H, W) and (K, C/groups, R, S) to (N, K, P, Q)."""
    (stride_h, stride_w), (pad_h, pad_w), (dil_h, dil_w) = (
        (value, value) if isinstance(value, int) else value for value in (stride, padding, dilation)
    )
    x = torch.nn.functional.pad(input, (pad_w, pad_w, pad_h, pad_h))
    n, c, h, w = x.shape
    k, _, taps_h, taps_w = weight.shape
    p = (h - dil_h * (taps_h - 1) - 1) // stride_h + 1
    q = (w - dil_w * (taps_w - 1) - 1) // stride_w + 1
    x = x.reshape(n, groups, c // groups, h, w)
    by_group = weight.reshape(groups, k // groups, c // groups, taps_h, taps_w)
    y = x.new_zeros((n, groups, k // groups, p, q))
    for r in range(taps_h):
        for s in range(taps_w):
            rows = slice(r * dil_h, r * dil_h + stride_h * (p - 1) + 1, stride_h)
            cols = slice(s * dil_w, s * dil_w + stride_w * (q - 1) + 1, stride_w)
            y = y + torch.einsum("ngchw,gkc->ngkhw", x[:, :, :, rows, cols], by_group[..., r, s])
    y = y.reshape(n, k, p, q)
    return y if bias is None else y + bias[:, None, None]
