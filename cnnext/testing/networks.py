"""Networks whose layers are measured: the chapters' models, and ResNet-50 and ResNeXt-50 for scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

import cnnext.nn
from cnnext import models


@dataclass(frozen=True)
class Network:
    """A network and what it is fed.

    Attributes:
        title: what it is.
        build: makes it; its argument ``layers`` says from whose layers.
        image: (C, H, W) of an image.
        batch: images on a CPU, so few that a pass takes well under a second.
        gpu_batch: images on a GPU.
    """

    title: str
    build: Callable[..., torch.nn.Module]
    image: tuple[int, int, int]
    batch: int
    gpu_batch: int


class Bottleneck(torch.nn.Module):
    """1×1, 3×3 and 1×1 convolutions with batch norm, added to the input or to its 1×1 convolution, then ReLU.

    Args:
        c: input channels; the output has ``4 * planes``.
        planes: what the width of the 3×3 convolution is reckoned from.
        stride: of the 3×3 convolution.
        groups, width: number of groups, and channels in each for 64 planes.
        layers: where the layers' classes come from.

    Source: He et al., 2016; Xie et al., 2017.
    """

    def __init__(self, c: int, planes: int, stride: int, groups: int, width: int, layers: Any):
        super().__init__()
        middle = planes * width // 64 * groups
        self.body = torch.nn.Sequential(
            layers.Conv2d(c, middle, 1, bias=False),
            layers.BatchNorm2d(middle),
            torch.nn.ReLU(inplace=True),
            layers.Conv2d(middle, middle, 3, stride, 1, groups=groups, bias=False),
            layers.BatchNorm2d(middle),
            torch.nn.ReLU(inplace=True),
            layers.Conv2d(middle, 4 * planes, 1, bias=False),
            layers.BatchNorm2d(4 * planes),
        )
        self.shortcut = torch.nn.Sequential()
        if stride != 1 or c != 4 * planes:
            self.shortcut.append(layers.Conv2d(c, 4 * planes, 1, stride, bias=False))
            self.shortcut.append(layers.BatchNorm2d(4 * planes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block to (N, C, H, W)."""
        return torch.relu(self.body(x) + self.shortcut(x))


def bottlenecks(groups: int, width: int, layers: Any = None) -> torch.nn.Module:
    """ResNet-50 for ``groups=1, width=64``, ResNeXt-50 for ``groups=32, width=4``; a thousand classes."""
    layers = cnnext.nn if layers is None else layers
    net = torch.nn.Sequential(
        layers.Conv2d(3, 64, 7, 2, 3, bias=False),
        layers.BatchNorm2d(64),
        torch.nn.ReLU(inplace=True),
        layers.MaxPool2d(3, 2, 1),
    )
    c = 64
    for planes, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for i in range(blocks):
            net.append(Bottleneck(c, planes, 2 if i == 0 and planes > 64 else 1, groups, width, layers))
            c = 4 * planes
    return net.extend([layers.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(c, 1000)])


NETWORKS = {
    "lenet": Network("LeNet-5", models.LeNet, (1, 28, 28), 128, 1024),
    "resnet18": Network("ResNet-18 at 96", models.ResNet18, (1, 96, 96), 16, 256),
    "vgg11-slim": Network("VGG-11, a quarter as wide", partial(models.VGG, models.VGG11_SLIM), (1, 224, 224), 8, 128),
    "resnet50": Network("ResNet-50", partial(bottlenecks, 1, 64), (3, 224, 224), 2, 64),
    "resnext50": Network("ResNeXt-50 32×4d", partial(bottlenecks, 32, 4), (3, 224, 224), 2, 64),
    "resnet18-224": Network("ResNet-18 at 224", models.ResNet18, (3, 224, 224), 4, 128),
    "vgg11": Network("VGG-11", partial(models.VGG, models.VGG11), (1, 224, 224), 2, 64),
}
"""What is measured first comes first: the quick ones, and one of each kind."""
