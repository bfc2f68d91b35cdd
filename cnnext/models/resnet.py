"""ResNet and ResNeXt (d2l 8.6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cnnext.models.base import Model, layers_from
from cnnext.nn.blocks import Residual, ResNeXtBlock


def _stem(layers: Any) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        layers.LazyConv2d(64, kernel_size=7, stride=2, padding=3),
        layers.LazyBatchNorm2d(),
        torch.nn.ReLU(),
        layers.MaxPool2d(kernel_size=3, stride=2, padding=1),
    )


def _head(num_classes: int, layers: Any) -> torch.nn.Sequential:
    return torch.nn.Sequential(layers.AdaptiveAvgPool2d((1, 1)), torch.nn.Flatten(), torch.nn.LazyLinear(num_classes))


class ResNet(Model):
    """A residual network of basic blocks.

    Args:
        arch: (residual blocks, channels) of each stage; every stage but the first halves the size.
        num_classes: scores per image.
        layers: where the layers' classes come from, ``cnnext.nn`` unless said.

    Source: He et al., 2016; "Dive into Deep Learning", section 8.6.
    """

    def __init__(self, arch: Sequence[tuple[int, int]], num_classes: int = 10, layers: Any = None):
        super().__init__()
        ours = layers_from(layers)
        self.net = torch.nn.Sequential(_stem(ours))
        for i, (blocks, channels) in enumerate(arch):
            self.net.add_module(f"b{i + 2}", self._stage(blocks, channels, i == 0, ours))
        self.net.add_module("last", _head(num_classes, ours))

    @staticmethod
    def _stage(blocks: int, channels: int, first: bool, layers: Any) -> torch.nn.Sequential:
        halves = [i == 0 and not first for i in range(blocks)]
        return torch.nn.Sequential(
            *(Residual(channels, use_1x1conv=half, strides=2 if half else 1, layers=layers) for half in halves)
        )


class ResNet18(ResNet):
    """The residual network with 18 layers of weights: two blocks in each of four stages, 64 to 512 channels."""

    def __init__(self, num_classes: int = 10, layers: Any = None):
        super().__init__(((2, 64), (2, 128), (2, 256), (2, 512)), num_classes, layers)


class ResNeXt(Model):
    """A residual network of ResNeXt blocks.

    Args:
        arch: (blocks, channels) of each stage.
        num_classes: scores per image.
        groups: channels in a group of the grouped convolutions.
        bot_mul: bottleneck channels over output channels.
        layers: where the layers' classes come from, ``cnnext.nn`` unless said.

    Source: Xie et al., 2017; "Dive into Deep Learning", section 8.6.5.
    """

    def __init__(
        self,
        arch: Sequence[tuple[int, int]] = ((2, 64), (2, 128), (2, 256), (2, 512)),
        num_classes: int = 10,
        groups: int = 16,
        bot_mul: float = 1,
        layers: Any = None,
    ):
        super().__init__()
        ours = layers_from(layers)
        self.net = torch.nn.Sequential(_stem(ours))
        for i, (blocks, channels) in enumerate(arch):
            stage = [
                ResNeXtBlock(channels, groups, bot_mul, use_1x1conv=j == 0, strides=1 + (i > 0 and j == 0), layers=ours)
                for j in range(blocks)
            ]
            self.net.add_module(f"b{i + 2}", torch.nn.Sequential(*stage))
        self.net.add_module("last", _head(num_classes, ours))
