"""VGG (d2l 8.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cnnext.models.base import Model, layers_from

VGG11 = ((1, 64), (1, 128), (2, 256), (2, 512), (2, 512))
VGG11_SLIM = ((1, 16), (1, 32), (2, 64), (2, 128), (2, 128))
"""VGG-11 with a quarter of the channels, which the book trains."""
VGG13 = ((2, 64), (2, 128), (2, 256), (2, 512), (2, 512))
VGG16 = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
VGG19 = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))


def vgg_block(num_convs: int, out_channels: int, layers: Any = None) -> torch.nn.Sequential:
    """``num_convs`` times a 3×3 convolution and ReLU, then a 2×2 max pool."""
    ours = layers_from(layers)
    parts: list[torch.nn.Module] = []
    for _ in range(num_convs):
        parts += [ours.LazyConv2d(out_channels, kernel_size=3, padding=1), torch.nn.ReLU()]
    return torch.nn.Sequential(*parts, ours.MaxPool2d(kernel_size=2, stride=2))


class VGG(Model):
    """A VGG network.

    Args:
        arch: (convolutions, channels) of each block: ``VGG11``, ``VGG11_SLIM``, ``VGG13``, ``VGG16`` and ``VGG19`` of
            this module, or others.
        num_classes: scores per image.
        layers: where the layers' classes come from, ``cnnext.nn`` unless said.

    Source: Simonyan and Zisserman, 2014; "Dive into Deep Learning", section 8.2.
    """

    def __init__(self, arch: Sequence[tuple[int, int]], num_classes: int = 10, layers: Any = None):
        super().__init__()
        self.net = torch.nn.Sequential(
            *(vgg_block(convs, channels, layers) for convs, channels in arch),
            torch.nn.Flatten(),
            torch.nn.LazyLinear(4096),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.5),
            torch.nn.LazyLinear(4096),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.5),
            torch.nn.LazyLinear(num_classes),
        )
