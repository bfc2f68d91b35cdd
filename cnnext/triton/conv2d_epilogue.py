"""What the convolution kernels do besides convolving: a norm on the way in, and the steps on the way out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton

from cnnext.triton.conv2d_shape import WIDE_FROM
from cnnext.triton.conv2d_statistics_kernel import STATISTICS
from cnnext.triton.launch import Kernel, launch
from cnnext.triton.tensors import accumulator_dtype, empty


@dataclass(frozen=True)
class Moments:
    """What the statistics of a convolution's output are made of; the kernel writes both tensors.

    Args:
        values: shape (tiles, 4, K): count, mean, what its rounding left, and squares, of each tile's pixels.
        rows: shape (1,): how many of the tiles there are, for a config of large tiles has fewer.
    """

    values: torch.Tensor
    rows: torch.Tensor

    @staticmethod
    def room_for(kernel: Kernel, images: int, pixels: int, channels: int, like: torch.Tensor) -> Moments:
        """Room for every config: ``pixels`` in each of ``images`` are cut into tiles of BLOCK_M."""
        smallest = min(config.kwargs["BLOCK_M"] for config in kernel.configs)
        tiles = images * triton.cdiv(pixels, smallest)
        return Moments(empty(like, (tiles, 4, channels), accumulator_dtype(like)), empty(like, (1,), torch.int32))

    def statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and biased variance of every channel, in the type of the sums over ``like``."""
        channels = self.values.shape[2]
        mean, var = (empty(like, (channels,), accumulator_dtype(like)) for _ in range(2))
        launch(
            STATISTICS,
            like,
            lambda config: (triton.cdiv(channels, config["BLOCK_C"]),),
            {
                "moments_ptr": self.values,
                "rows_ptr": self.rows,
                "mean_ptr": mean,
                "var_ptr": var,
                "channels": channels,
            },
            {"WIDE": bool(self.values.numel() >= WIDE_FROM)},
        )
        return mean, var


@dataclass(frozen=True)
class Epilogue:
    """What happens to an output before it is written (``store_output`` in ``conv2d_tile_kernel.py``).

    Args:
        bias: shape (K,), of the output's dtype.
        residual: of the output's shape, dtype and strides; added after the bias.
        relu: whether negative values become zero, after that.
        statistics: whether the moments of the output are taken.
    """

    bias: torch.Tensor | None = None
    residual: torch.Tensor | None = None
    relu: bool = False
    statistics: bool = False

    def arguments(self, moments: Moments | None) -> dict[str, Any]:
        """Tensors of the kernel."""
        return {
            "bias_ptr": self.bias,
            "residual_ptr": self.residual,
            "moments_ptr": None if moments is None else moments.values,
            "rows_ptr": None if moments is None else moments.rows,
        }

    def constants(self) -> dict[str, bool]:
        """Which steps there are."""
        return {
            "HAS_BIAS": self.bias is not None,
            "HAS_RESIDUAL": self.residual is not None,
            "RELU": self.relu,
            "STATISTICS": self.statistics,
        }
