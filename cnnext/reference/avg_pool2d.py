"""avg_pool2d, written as its definition."""

import torch

from cnnext.reference.max_pool2d import window_count


def avg_pool2d(
    input: torch.Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> torch.Tensor:
    """Sum of each window over its divisor: its size, clipped to the (padded) image, or ``divisor_override``."""
    taps, steps, pads = (
        (value, value) if isinstance(value, int) else value
        for value in (kernel_size, kernel_size if stride is None else stride, padding)
    )
    h, w = input.shape[2:]
    p, q = (window_count(size, taps[d], steps[d], pads[d], 1, ceil_mode) for d, size in ((0, h), (1, w)))
    rows = []
    for i in range(p):
        top, bottom = i * steps[0] - pads[0], min(i * steps[0] - pads[0] + taps[0], h + pads[0])
        row = []
        for j in range(q):
            left, right = j * steps[1] - pads[1], min(j * steps[1] - pads[1] + taps[1], w + pads[1])
            window = input[:, :, max(top, 0) : min(bottom, h), max(left, 0) : min(right, w)]
            count = (bottom - top) * (right - left) if count_include_pad else window.shape[2] * window.shape[3]
            row.append(window.sum((2, 3)) / (divisor_override or count))
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2)
