"""The layers. Each is torch.nn's class of the same name with another forward pass and nothing else.

So constructors, parameter names, initialisation, ``state_dict``, hooks, ``copy.deepcopy`` and pickling are torch's, and
``isinstance(layer, torch.nn.Conv2d)`` holds.
"""

from __future__ import annotations

import torch

from cnnext import functional as F


class Corr2d(torch.nn.Module):
    """Cross-correlation of one image with a learnable kernel, plus a learnable bias: the book's first layer.

    Args:
        kernel_size: (R, S); the weight starts uniform in [0, 1), the bias at zero.

    Shapes: (H, W) to (H − R + 1, W − S + 1). Source: "Dive into Deep Learning", section 7.2.2.
    """

    def __init__(self, kernel_size: int | tuple[int, int]):
        super().__init__()
        size = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
        self.weight = torch.nn.Parameter(torch.rand(size))
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Correlate an image of shape (H, W)."""
        return F.corr2d(input, self.weight) + self.bias

    def extra_repr(self) -> str:
        """Kernel size, for ``print``."""
        return f"kernel_size={tuple(self.weight.shape)}"


class Conv2d(torch.nn.Conv2d):
    """``torch.nn.Conv2d`` through :func:`cnnext.functional.conv2d`; every ``padding_mode``."""

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input = torch.nn.functional.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0, 0)
        return F.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)  # type: ignore[arg-type]


class LazyConv2d(torch.nn.LazyConv2d):
    """``torch.nn.LazyConv2d``: learns the number of input channels at its first call and becomes a :class:`Conv2d`."""

    cls_to_become = Conv2d


class MaxPool2d(torch.nn.MaxPool2d):
    """``torch.nn.MaxPool2d`` through :func:`cnnext.functional.max_pool2d`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Pool (N, C, H, W) or (C, H, W); with ``return_indices`` a pair of values and positions."""
        return F.max_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
        )


class AvgPool2d(torch.nn.AvgPool2d):
    """``torch.nn.AvgPool2d`` through :func:`cnnext.functional.avg_pool2d`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Pool (N, C, H, W) or (C, H, W)."""
        return F.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class AdaptiveAvgPool2d(torch.nn.AdaptiveAvgPool2d):
    """``torch.nn.AdaptiveAvgPool2d`` through :func:`cnnext.functional.adaptive_avg_pool2d`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Pool (N, C, H, W) or (C, H, W) to the output size."""
        return F.adaptive_avg_pool2d(input, self.output_size)  # type: ignore[arg-type]


class BatchNorm2d(torch.nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` through :func:`cnnext.functional.batch_norm`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise (N, C, H, W) over N, H and W; updates the running statistics in training."""
        self._check_input_dim(input)
        use_batch = self.training or (self.running_mean is None and self.running_var is None)
        momentum = 0.0 if self.momentum is None else self.momentum
        keeps = self.training and self.track_running_stats
        if keeps and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # a cumulative average
                momentum = 1.0 / float(self.num_batches_tracked)
        uses_running = keeps or not use_batch
        return F.batch_norm(
            input,
            self.running_mean if uses_running else None,
            self.running_var if uses_running else None,
            self.weight,
            self.bias,
            use_batch,
            momentum,
            self.eps,
        )


class LazyBatchNorm2d(torch.nn.LazyBatchNorm2d):
    """``torch.nn.LazyBatchNorm2d``: learns the channels at its first call and becomes a :class:`BatchNorm2d`."""

    cls_to_become = BatchNorm2d
