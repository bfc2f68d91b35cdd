"""Layers: torch.nn's own classes with the forward pass through cnnext's ops, the book's blocks, and swap."""

from cnnext.nn.blocks import Residual, ResNeXtBlock
from cnnext.nn.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Corr2d,
    LazyBatchNorm2d,
    LazyConv2d,
    MaxPool2d,
)
from cnnext.nn.swap import SwapReport, swap, unswap

__all__ = [
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm2d",
    "Conv2d",
    "Corr2d",
    "LazyBatchNorm2d",
    "LazyConv2d",
    "MaxPool2d",
    "ResNeXtBlock",
    "Residual",
    "SwapReport",
    "swap",
    "unswap",
]
