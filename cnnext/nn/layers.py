"""The layers. Each is torch.nn's class of the same name with another forward pass and nothing else.

So constructors, parameter names, initialisation, ``state_dict``, hooks, ``copy.deepcopy`` and pickling are torch's, and
``isinstance(layer, torch.nn.Conv2d)`` holds. Of a lazy layer, torch's call takes hold of ``forward`` before the layer
becomes what it is to become, so that the lazy classes must have our ``forward`` too: they inherit from both.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from cnnext import functional as F
from cnnext.ops.arguments import pair


class Corr2d(torch.nn.Module):
    """Cross-correlation of one image with a learnable kernel, plus a learnable bias: the book's first layer.

    Args:
        kernel_size: (R, S); the weight starts uniform in [0, 1), the bias at zero.

    Shapes: (H, W) to (H − R + 1, W − S + 1). Source: "Dive into Deep Learning", section 7.2.2.
    """

    def __init__(self, kernel_size: int | tuple[int, int]):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(pair(kernel_size, "kernel_size")))
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Correlate an image of shape (H, W)."""
        return F.corr2d(input, self.weight) + self.bias

    def extra_repr(self) -> str:
        """Kernel size, for ``print``."""
        return f"kernel_size={tuple(self.weight.shape)}"


def _padded(layer: Any, input: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """Return the input, padded where the mode is not the op's own (zeros), and the padding that is left to the op."""
    if layer.padding_mode == "zeros":
        return input, layer.padding
    return torch.nn.functional.pad(input, layer._reversed_padding_repeated_twice, mode=layer.padding_mode), 0


class Conv2d(torch.nn.Conv2d):
    """``torch.nn.Conv2d`` through :func:`cnnext.functional.conv2d`; every ``padding_mode``."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve (N, C, H, W) or (C, H, W)."""
        input, padding = _padded(self, input)
        return F.conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)  # type: ignore[arg-type]


class LazyConv2d(torch.nn.LazyConv2d, Conv2d):  # type: ignore[misc]
    """``torch.nn.LazyConv2d``: learns the number of input channels at its first call and becomes a :class:`Conv2d`."""

    cls_to_become = Conv2d


class Conv1d(torch.nn.Conv1d):
    """``torch.nn.Conv1d`` through :func:`cnnext.functional.conv1d`, for audio and other sequences."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve (N, C, L) or (C, L)."""
        input, padding = _padded(self, input)
        return F.conv1d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class LazyConv1d(torch.nn.LazyConv1d, Conv1d):  # type: ignore[misc]
    """``torch.nn.LazyConv1d``: learns the number of input channels at its first call and becomes a :class:`Conv1d`."""

    cls_to_become = Conv1d


class ConvTranspose2d(torch.nn.ConvTranspose2d):
    """``torch.nn.ConvTranspose2d`` through :func:`cnnext.functional.conv_transpose2d`.

    With ``stride=2`` the kernel moves by half a pixel of the input: the output is twice as large.
    """

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """Convolve (N, C, H, W) or (C, H, W); ``output_size`` chooses among the sizes that the stride leaves open.

        Raises:
            ValueError: ``padding_mode`` is not ``"zeros"``, or ``output_size`` is none of those sizes.
        """
        if self.padding_mode != "zeros":
            raise ValueError(f"ConvTranspose2d knows padding_mode='zeros' only, but got {self.padding_mode!r}")
        stride, padding, dilation = (list(pair(x, "")) for x in (self.stride, self.padding, self.dilation))
        extra = self._output_padding(input, output_size, stride, padding, list(self.kernel_size), 2, dilation)
        return F.conv_transpose2d(input, self.weight, self.bias, stride, padding, extra, self.groups, dilation)


class LazyConvTranspose2d(torch.nn.LazyConvTranspose2d, ConvTranspose2d):  # type: ignore[misc]
    """``torch.nn.LazyConvTranspose2d``: learns the input channels and becomes a :class:`ConvTranspose2d`."""

    cls_to_become = ConvTranspose2d


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


class LPPool2d(torch.nn.LPPool2d):
    """``torch.nn.LPPool2d`` through :func:`cnnext.functional.lp_pool2d`, which says where the two differ."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Pool (N, C, H, W) or (C, H, W)."""
        return F.lp_pool2d(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)


class StochasticPool2d(torch.nn.Module):
    """Pool by drawing an activation in training, and by their weighted average in evaluation.

    Args:
        kernel_size, stride, padding, ceil_mode: as for :func:`cnnext.functional.stochastic_pool2d`, which also has the
            formula, the errors and the source.

    Shapes: (N, C, H, W) or (C, H, W), after a ReLU, to those of a max pool.
    """

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False):
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Pool (N, C, H, W) or (C, H, W)."""
        window = self.kernel_size, self.stride, self.padding, self.ceil_mode
        return F.stochastic_pool2d(input, *window, training=self.training)

    def extra_repr(self) -> str:
        """Arguments, for ``print``."""
        names = ("kernel_size", "stride", "padding", "ceil_mode")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


class NormArguments(NamedTuple):
    """How a norm runs now: its share of the arguments of :func:`cnnext.functional.batch_norm`."""

    running_mean: torch.Tensor | None
    running_var: torch.Tensor | None
    training: bool
    momentum: float


def norm_arguments(norm: Any) -> NormArguments:
    """Read mode and settings of a torch.nn batch norm, and count the batch if it is one to learn from."""
    use_batch = norm.training or (norm.running_mean is None and norm.running_var is None)
    momentum = 0.0 if norm.momentum is None else norm.momentum
    keeps = norm.training and norm.track_running_stats
    if keeps and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:  # a cumulative average
            momentum = 1.0 / float(norm.num_batches_tracked)
    if keeps or not use_batch:
        return NormArguments(norm.running_mean, norm.running_var, use_batch, momentum)
    return NormArguments(None, None, use_batch, momentum)


def normalise(norm: Any, input: torch.Tensor) -> torch.Tensor:
    """Run a torch.nn batch norm through :func:`cnnext.functional.batch_norm`."""
    mean, var, training, momentum = norm_arguments(norm)
    return F.batch_norm(input, mean, var, norm.weight, norm.bias, training, momentum, norm.eps)


class BatchNorm2d(torch.nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` through :func:`cnnext.functional.batch_norm`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise (N, C, H, W) over N, H and W; updates the running statistics in training."""
        self._check_input_dim(input)
        return normalise(self, input)


class LazyBatchNorm2d(torch.nn.LazyBatchNorm2d, BatchNorm2d):
    """``torch.nn.LazyBatchNorm2d``: learns the channels at its first call and becomes a :class:`BatchNorm2d`."""

    cls_to_become = BatchNorm2d
