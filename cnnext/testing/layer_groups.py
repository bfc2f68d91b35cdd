"""Layers that stand for themselves, beside those of the networks."""

from __future__ import annotations

from typing import Any

from cnnext.testing.layers import LayerCase


def _conv(name: str, input: tuple[int, ...], weight: tuple[int, ...], bias: bool = True, **arguments: Any) -> LayerCase:
    return LayerCase("conv2d", name, input, weight, bias, tuple(arguments.items()))


EDGES = (
    _conv("edge 1x1 image", (1, 3, 1, 1), (8, 3, 1, 1)),
    _conv("edge one image", (1, 64, 56, 56), (64, 64, 3, 3), padding=1),
    _conv("edge prime sizes", (3, 13, 37, 41), (23, 13, 3, 5), padding=(1, 2)),
    _conv("edge depthwise", (4, 96, 56, 56), (96, 1, 3, 3), padding=1, groups=96),
    _conv("edge depthwise, stride 2", (4, 96, 56, 56), (96, 1, 3, 3), stride=2, padding=1, groups=96),
    _conv("edge dilation", (2, 64, 28, 28), (64, 64, 3, 3), padding=2, dilation=2),
    _conv("edge 11x11, stride 4", (2, 3, 224, 224), (64, 3, 11, 11), stride=4, padding=2),
    _conv("edge one channel out", (2, 64, 56, 56), (1, 64, 3, 3), padding=1),
    LayerCase("max_pool2d", "edge overlapping", (2, 64, 55, 55), arguments=(("kernel_size", 3), ("stride", 2))),
    LayerCase("max_pool2d", "edge stride 1", (2, 64, 28, 28), arguments=(("kernel_size", 3), ("stride", 1))),
    LayerCase("avg_pool2d", "edge padded", (2, 64, 28, 28), arguments=(("kernel_size", 3), ("padding", 1))),
    LayerCase("adaptive_avg_pool2d", "edge uneven", (2, 64, 13, 13), arguments=(("output_size", 6),)),
    LayerCase("batch_norm", "edge one pixel", (32, 256, 1, 1), (256,), True),
    LayerCase("corr2d", "edge 3x3", (512, 512), (3, 3)),
    LayerCase("corr2d", "edge 11x11", (512, 512), (11, 11)),
    LayerCase(
        "conv_transpose2d", "edge upsample", (2, 32, 28, 28), (32, 16, 4, 4), True, (("stride", 2), ("padding", 1))
    ),
)
"""Layers that the networks have not, and sizes at which an algorithm may fall behind."""


def _fused(name: str, input: tuple[int, ...], weight: tuple[int, ...], residual: bool, **arguments: Any) -> LayerCase:
    return LayerCase("conv_bn_relu", name, input, weight, False, (*arguments.items(), ("residual", residual)))


FUSED = (
    _fused("fused ResNet-18 64", (4, 64, 56, 56), (64, 64, 3, 3), False, padding=1),
    _fused("fused ResNet-18 64, residual", (4, 64, 56, 56), (64, 64, 3, 3), True, padding=1),
    _fused("fused ResNet-18 64 to 128", (4, 64, 56, 56), (128, 64, 3, 3), False, stride=2, padding=1),
    _fused("fused ResNet-18 512, residual", (4, 512, 7, 7), (512, 512, 3, 3), True, padding=1),
    _fused("fused ResNet-50 64 to 256, residual", (2, 64, 56, 56), (256, 64, 1, 1), True),
    _fused("fused ResNeXt-50, groups", (2, 128, 56, 56), (128, 4, 3, 3), False, padding=1, groups=32),
)
"""Convolution, norm and ReLU in one call, as in the blocks of ResNets."""

GROUPS = {"edge": EDGES, "fused": FUSED}
