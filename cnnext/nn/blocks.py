"""The book's residual blocks, with its structure and parameter names (d2l 8.6)."""

from __future__ import annotations

from typing import Any

import torch

from cnnext.nn import layers as ours


class Residual(torch.nn.Module):
    """Two 3×3 convolutions with batch norm, added to the input or to its 1×1 convolution, then ReLU.

    Args:
        num_channels: output channels.
        use_1x1conv: whether the shortcut is a 1×1 convolution (without a norm); needed where channels or size change.
        strides: of the first convolution and of the shortcut.
        layers: where the layers' classes come from; ``torch.nn`` builds the block from torch's own.

    Shapes: (N, C, H, W) to (N, num_channels, ⌈H / strides⌉, ⌈W / strides⌉); C is learnt at the first call.
    Source: "Dive into Deep Learning", section 8.6.2.
    """

    def __init__(self, num_channels: int, use_1x1conv: bool = False, strides: int = 1, layers: Any = None):
        super().__init__()
        layers = layers or ours
        self.conv1 = layers.LazyConv2d(num_channels, kernel_size=3, padding=1, stride=strides)
        self.conv2 = layers.LazyConv2d(num_channels, kernel_size=3, padding=1)
        self.conv3 = layers.LazyConv2d(num_channels, kernel_size=1, stride=strides) if use_1x1conv else None
        self.bn1 = layers.LazyBatchNorm2d()
        self.bn2 = layers.LazyBatchNorm2d()

    def forward(self, X: torch.Tensor) -> torch.Tensor:  # noqa: N803  (the book's name)
        """Apply the block to (N, C, H, W)."""
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
    ):
        super().__init__()
        layers = layers or ours
        inner = int(round(num_channels * bot_mul))
        if groups < 1 or inner % groups:
            raise ValueError(f"groups={groups} must divide the bottleneck's {inner} channels")
        self.conv1 = layers.LazyConv2d(inner, kernel_size=1, stride=1)
        self.conv2 = layers.LazyConv2d(inner, kernel_size=3, stride=strides, padding=1, groups=inner // groups)
        self.conv3 = layers.LazyConv2d(num_channels, kernel_size=1, stride=1)
        self.bn1, self.bn2, self.bn3 = (layers.LazyBatchNorm2d() for _ in range(3))
        self.conv4 = layers.LazyConv2d(num_channels, kernel_size=1, stride=strides) if use_1x1conv else None
        self.bn4 = layers.LazyBatchNorm2d() if use_1x1conv else None

    def forward(self, X: torch.Tensor) -> torch.Tensor:  # noqa: N803
        """Apply the block to (N, C, H, W)."""
        Y = torch.relu(self.bn1(self.conv1(X)))  # noqa: N806
        Y = torch.relu(self.bn2(self.conv2(Y)))  # noqa: N806
        Y = self.bn3(self.conv3(Y))  # noqa: N806
        if self.conv4 is not None and self.bn4 is not None:
            X = self.bn4(self.conv4(X))  # noqa: N806
        return torch.relu(Y + X)
