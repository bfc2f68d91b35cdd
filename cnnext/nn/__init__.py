"""Layers: torch.nn's own classes with the forward pass through cnnext's ops, the book's blocks, and swap."""

from cnnext.nn import filters
from cnnext.nn.blocks import Residual, ResNeXtBlock
from cnnext.nn.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm2d,
    Conv1d,
    Conv2d,
    ConvTranspose2d,
    Corr2d,
    LazyBatchNorm2d,
    LazyConv1d,
    LazyConv2d,
    LazyConvTranspose2d,
    LPPool2d,
    MaxPool2d,
    StochasticPool2d,
)
from cnnext.nn.resnet_blocks import BasicBlock, Bottleneck, ConvBNReLU
from cnnext.nn.swap import SwapReport, swap, unswap
from cnnext.nn.sync import SyncBatchNorm

__all__ = [
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BasicBlock",
    "BatchNorm2d",
    "Bottleneck",
    "Conv1d",
    "Conv2d",
    "ConvBNReLU",
    "ConvTranspose2d",
    "Corr2d",
    "LPPool2d",
    "LazyBatchNorm2d",
    "LazyConv1d",
    "LazyConv2d",
    "LazyConvTranspose2d",
    "MaxPool2d",
    "ResNeXtBlock",
    "Residual",
    "StochasticPool2d",
    "SwapReport",
    "SyncBatchNorm",
    "filters",
    "swap",
    "unswap",
]
