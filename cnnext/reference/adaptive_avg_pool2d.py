"""adaptive_avg_pool2d, written as its definition."""

import torch


def adaptive_avg_pool2d(input: torch.Tensor, output_size: int | None | tuple[int | None, int | None]) -> torch.Tensor:
    """Mean over rows ⌊i·H/P⌋ to ⌈(i + 1)·H/P⌉ and the same of columns. (N, C, H, W) to (N, C, P, Q)."""
    wanted = output_size if isinstance(output_size, tuple) else (output_size, output_size)
    h, w = input.shape[2:]
    p, q = (size if out is None else out for out, size in zip(wanted, (h, w), strict=True))
    rows = []
    for i in range(p):
        band = input[:, :, i * h // p : -(-(i + 1) * h // p)]
        rows.append(torch.stack([band[..., j * w // q : -(-(j + 1) * w // q)].mean((2, 3)) for j in range(q)], -1))
    return torch.stack(rows, -2)
