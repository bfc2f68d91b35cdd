"""LeNet-5 (d2l 7.6)."""

from __future__ import annotations

from typing import Any

import torch

from cnnext.models.base import Model, layers_from


class LeNet(Model):
    """LeNet-5 with sigmoids and average pools, for images of 28 × 28.

    Args:
        num_classes: scores per image.
        layers: where the layers' classes come from, ``cnnext.nn`` unless said; ``torch.nn`` for torch's own.

    Source: LeCun et al., 1998; "Dive into Deep Learning", section 7.6.
    """

    def __init__(self, num_classes: int = 10, layers: Any = None):
        super().__init__()
        ours = layers_from(layers)
        self.net = torch.nn.Sequential(
            ours.LazyConv2d(6, kernel_size=5, padding=2),
            torch.nn.Sigmoid(),
            ours.AvgPool2d(kernel_size=2, stride=2),
            ours.LazyConv2d(16, kernel_size=5),
            torch.nn.Sigmoid(),
            ours.AvgPool2d(kernel_size=2, stride=2),
            torch.nn.Flatten(),
            torch.nn.LazyLinear(120),
            torch.nn.Sigmoid(),
            torch.nn.LazyLinear(84),
            torch.nn.Sigmoid(),
            torch.nn.LazyLinear(num_classes),
        )
