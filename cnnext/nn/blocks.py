"""The book's residual blocks, with its structure and parameter names (d2l 8.6), on the fused ops.

A block of our layers runs them in one chain; where a layer has a hook, or is another's, it calls them one by one.
"""

from __future__ import annotations

import operator
from typing import Any

import torch

from cnnext.nn import layers as ours
from cnnext.nn.conv_bn import conv_bn, may_fuse, run


def _conv(layers: Any, in_channels: int | None, out_channels: int, kernel_size: int, **options: Any) -> Any:
    if in_channels is None:
        return layers.LazyConv2d(out_channels, kernel_size, **options)
    return layers.Conv2d(in_channels, out_channels, kernel_size, **options)


def _norm(layers: Any, in_channels: int | None, channels: int) -> Any:
    return layers.LazyBatchNorm2d() if in_channels is None else layers.BatchNorm2d(channels)


class Residual(torch.nn.Module):
    """Two 3×3 convolutions with batch norm, added to the input or to its 1×1 convolution, then ReLU.

    Args:
        num_channels: output channels.
        use_1x1conv: whether the shortcut is a 1×1 convolution (without a norm); needed where channels or size change.
        strides: of the first convolution and of the shortcut.
        layers: where the layers' classes come from; ``torch.nn`` builds the block from torch's own.
        in_channels: C, if known; otherwise it is learnt at the first call.

    Shapes: (N, C, H, W) to (N, num_channels, ⌈H / strides⌉, ⌈W / strides⌉).
    Source: "Dive into Deep Learning", section 8.6.2.
    """

    def __init__(
        self,
        num_channels: int,
        use_1x1conv: bool = False,
        strides: int = 1,
        layers: Any = None,
        in_channels: int | None = None,
    ):
        super().__init__()
        layers = layers or ours
        inner = None if in_channels is None else num_channels
        self.conv1 = _conv(layers, in_channels, num_channels, 3, padding=1, stride=strides)
        self.conv2 = _conv(layers, inner, num_channels, 3, padding=1)
        self.conv3 = _conv(layers, in_channels, num_channels, 1, stride=strides) if use_1x1conv else None
        self.bn1, self.bn2 = (_norm(layers, in_channels, num_channels) for _ in range(2))

    def forward(self, X: torch.Tensor) -> torch.Tensor:  # noqa: N803  (the book's name)
        """Apply the block to (N, C, H, W)."""
        if may_fuse(X, self.conv1, self.bn1, self.conv2, self.bn2):
            shortcut = X if self.conv3 is None else self.conv3(X)
            return run(X, [(self.conv1, self.bn1), (self.conv2, self.bn2)], shortcut, add=operator.iadd)
        Y = torch.relu(self.bn1(self.conv1(X)))  # noqa: N806
        Y = self.bn2(self.conv2(Y))  # noqa: N806
        Y += X if self.conv3 is None else self.conv3(X)  # noqa: N806
        return torch.relu(Y)


class ResNeXtBlock(torch.nn.Module):
    """1×1, grouped 3×3 and 1×1 convolutions with batch norm, added to the input or its 1×1 convolution, then ReLU.

    Args:
        num_channels: output channels.
        groups: channels in a group of the 3×3 convolution (the book's argument, its ``groups`` are their number:
            bottleneck channels // groups).
        bot_mul: bottleneck channels over output channels.
        use_1x1conv: whether the shortcut is a 1×1 convolution with batch norm.
        strides: of the 3×3 convolution and of the shortcut.
        layers: where the layers' classes come from.
        in_channels: C, if known; otherwise it is learnt at the first call.

    Shapes: (N, C, H, W) to (N, num_channels, ⌈H / strides⌉, ⌈W / strides⌉).

    Raises:
        ValueError: the bottleneck's channels cannot be shared out to groups of that size.

    Source: "Dive into Deep Learning", section 8.6.5.
    """

    def __init__(
        self,
        num_channels: int,
        groups: int,
        bot_mul: float,
        use_1x1conv: bool = False,
        strides: int = 1,
        layers: Any = None,
        in_channels: int | None = None,
    ):
        super().__init__()
        layers = layers or ours
        middle = round(num_channels * bot_mul)
        if groups < 1 or middle < 1 or middle % groups:
            raise ValueError(f"groups={groups} must divide the bottleneck's {middle} channels")
        inner = None if in_channels is None else middle
        self.conv1 = _conv(layers, in_channels, middle, 1)
        self.conv2 = _conv(layers, inner, middle, 3, stride=strides, padding=1, groups=middle // groups)
        self.conv3 = _conv(layers, inner, num_channels, 1)
        self.bn1, self.bn2 = (_norm(layers, in_channels, middle) for _ in range(2))
        self.bn3 = _norm(layers, in_channels, num_channels)
        self.conv4 = _conv(layers, in_channels, num_channels, 1, stride=strides) if use_1x1conv else None
        self.bn4 = _norm(layers, in_channels, num_channels) if use_1x1conv else None

    def forward(self, X: torch.Tensor) -> torch.Tensor:  # noqa: N803
        """Apply the block to (N, C, H, W)."""
        shortcut = X if self.conv4 is None else conv_bn(X, self.conv4, self.bn4)
        if may_fuse(X, self.conv1, self.bn1, self.conv2, self.bn2, self.conv3, self.bn3):
            links = [(self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)]
            return run(X, links, shortcut)
        Y = torch.relu(self.bn1(self.conv1(X)))  # noqa: N806
        Y = torch.relu(self.bn2(self.conv2(Y)))  # noqa: N806
        Y = self.bn3(self.conv3(Y))  # noqa: N806
        return torch.relu(Y + shortcut)
