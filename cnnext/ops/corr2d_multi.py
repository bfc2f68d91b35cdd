"""corr2d with several input and output channels: one image, no batch, no padding, no stride."""

from __future__ import annotations

import torch

from cnnext.ops.arguments import require_same_device, require_tensor
from cnnext.ops.conv2d import conv2d


def corr2d_multi_in(input: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Cross-correlation of an image of several channels, summed over the channels.

    ``output[p, q] = Σ_{c,r,s} input[c, p + r, q + s] · kernel[c, r, s]``

    Args:
        input: shape (C, H, W); float32, float64, float16 or bfloat16.
        kernel: shape (C, R, S) with 1 ≤ R ≤ H and 1 ≤ S ≤ W, of the same dtype and device.

    Returns:
        Shape (H − R + 1, W − S + 1), same dtype.

    Raises:
        TypeError: an argument is not a tensor.
        RuntimeError: the shapes do not fit, or dtypes or devices differ.

    Runs as one conv2d, with its accumulation type and determinism. Differentiable any number of times.
    Equivalent: ``torch.nn.functional.conv2d(input[None], kernel[None])[0, 0]``.
    Source: "Dive into Deep Learning", section 7.4.1.
    """
    _require(input, 3, kernel, 3, channel_dim=0)
    return conv2d(input.unsqueeze(0), kernel.unsqueeze(0))[0, 0]


def corr2d_multi_in_out(input: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Cross-correlation of an image of several channels with one kernel per output channel.

    ``output[k, p, q] = Σ_{c,r,s} input[c, p + r, q + s] · kernel[k, c, r, s]``

    Args:
        input: shape (C, H, W); float32, float64, float16 or bfloat16.
        kernel: shape (K, C, R, S) with 1 ≤ R ≤ H and 1 ≤ S ≤ W, of the same dtype and device.

    Returns:
        Shape (K, H − R + 1, W − S + 1), same dtype.

    Raises:
        TypeError: an argument is not a tensor.
        RuntimeError: the shapes do not fit, or dtypes or devices differ.

    Runs as one conv2d, with its accumulation type and determinism. Differentiable any number of times.
    Equivalent: ``torch.nn.functional.conv2d(input[None], kernel)[0]``.
    Source: "Dive into Deep Learning", section 7.4.2.
    """
    _require(input, 3, kernel, 4, channel_dim=1)
    return conv2d(input.unsqueeze(0), kernel)[0]


def corr2d_multi_in_out_1x1(input: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Cross-correlation with kernels of one tap: a fully connected layer over the channels of each pixel.

    ``output[k, p, q] = Σ_c input[c, p, q] · kernel[k, c, 0, 0]``

    Args:
        input: shape (C, H, W); float32, float64, float16 or bfloat16.
        kernel: shape (K, C, 1, 1), of the same dtype and device.

    Returns:
        Shape (K, H, W), same dtype.

    Raises:
        TypeError: an argument is not a tensor.
        RuntimeError: the shapes do not fit, or dtypes or devices differ.

    One matrix product (K, C) · (C, H·W), which is torch's own on every backend: it checks
    :func:`corr2d_multi_in_out` by another road. Differentiable any number of times.
    Source: "Dive into Deep Learning", section 7.4.3.
    """
    _require(input, 3, kernel, 4, channel_dim=1)
    if tuple(kernel.shape[2:]) != (1, 1):
        raise RuntimeError(f"expected `kernel` of shape [K, C, 1, 1], but got {list(kernel.shape)}")
    if input.dtype != kernel.dtype:
        raise RuntimeError(f"expected `input` and `kernel` of one dtype, but got {input.dtype} and {kernel.dtype}")
    c, h, w = input.shape
    k = kernel.shape[0]
    return (kernel.reshape(k, c) @ input.reshape(c, h * w)).reshape(k, h, w)


def _require(input: torch.Tensor, input_dim: int, kernel: torch.Tensor, kernel_dim: int, channel_dim: int) -> None:
    for name, tensor, dim in (("input", input, input_dim), ("kernel", kernel, kernel_dim)):
        require_tensor(tensor, name)
        if tensor.dim() != dim:
            raise RuntimeError(f"expected `{name}` with {dim} dimensions, but got shape {list(tensor.shape)}")
    require_same_device("input", input, "kernel", kernel)
    if input.shape[0] != kernel.shape[channel_dim]:
        raise RuntimeError(
            f"expected `kernel` of shape {list(kernel.shape)} to have the {input.shape[0]} channels of `input` "
            f"of shape {list(input.shape)}"
        )
