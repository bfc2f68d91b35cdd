"""Tensors for tests: seeded, in either layout, and with NaN in the memory around them."""

from __future__ import annotations

import torch

from cnnext.backends import registered

GUARD = 64
"""Elements of NaN before and after a tensor: what a kernel reads out of bounds spoils its result."""


def make_tensor(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    *,
    channels_last: bool = False,
    seed: int = 0,
    device: str | torch.device | None = None,
    requires_grad: bool = False,
) -> torch.Tensor:
    """Return a tensor of standard-normal values, dense in its layout, inside a larger buffer of NaN.

    Args:
        shape: any shape; four dimensions for ``channels_last``.
        dtype: a floating dtype. The values are drawn in float64 and rounded, so that they agree between dtypes.
        channels_last: whether the memory is ordered N, H, W, C.
        seed: of the values.
        device: where the tensor lies; None is torch's default device.
        requires_grad: of the tensor, which is a leaf.

    Returns:
        The tensor, of shape ``shape``.
    """
    device = torch.get_default_device() if device is None else device
    generator = torch.Generator("cpu").manual_seed(seed)  # the same values on every device
    values = torch.randn(shape, dtype=torch.float64, generator=generator, device="cpu").to(dtype)
    if channels_last:
        values = values.contiguous(memory_format=torch.channels_last)
    buffer = torch.full((values.numel() + 2 * GUARD,), torch.nan, dtype=dtype, device=device)
    tensor = buffer.as_strided(values.shape, values.stride(), GUARD)
    tensor.copy_(values)
    return tensor.detach().requires_grad_(requires_grad)


def present_backends(op: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[str]:
    """Return the names of the backends that run ``op`` on ``device``: those a test of the op goes through."""
    return [one.name for one in registered() if one.can_run(op, torch.device(device), dtype) is None]
