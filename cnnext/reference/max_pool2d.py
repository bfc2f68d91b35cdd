"""max_pool2d, written as its definition."""

import torch


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def window_count(size: int, taps: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Windows along one axis; with ``ceil_mode`` the incomplete one too if it starts before the right padding."""
    room = size + 2 * padding - dilation * (taps - 1) - 1
    count = room // stride + 1
    if ceil_mode and room % stride and count * stride < size + padding:
        count += 1
    return count


def max_pool2d(
    input: torch.Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    ceil_mode: bool = False,
) -> torch.Tensor:
    """Largest value of each window; what lies outside the image is −∞. (N, C, H, W) to (N, C, P, Q)."""
    taps, steps = _pair(kernel_size), _pair(kernel_size if stride is None else stride)
    pads, dils = _pair(padding), _pair(dilation)
    size = input.shape[2:]
    p, q = (window_count(size[d], taps[d], steps[d], pads[d], dils[d], ceil_mode) for d in (0, 1))
    after = [(out - 1) * steps[d] + dils[d] * (taps[d] - 1) + 1 - size[d] - pads[d] for d, out in ((0, p), (1, q))]
    x = torch.nn.functional.pad(input, (pads[1], max(after[1], 0), pads[0], max(after[0], 0)), value=-torch.inf)
    seen = [
        x[:, :, r * dils[0] :: steps[0], s * dils[1] :: steps[1]][:, :, :p, :q]
        for r in range(taps[0])
        for s in range(taps[1])
    ]
    return torch.stack(seen).max(0).values  # of equal values the first one has the gradient
