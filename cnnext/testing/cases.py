"""Named shapes, shared by the tests and the benchmarks: the layers of the chapters' models, and edges."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cnnext.testing.tensors import make_tensor

Pair = tuple[int, int]


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


@dataclass(frozen=True)
class Conv2dCase:
    """One convolution.

    Attributes:
        name: model and layer, or what is special about it.
        input: (N, C, H, W).
        out: output channels.
        kernel, stride, padding, dilation, groups: as in torch.
        bias: whether there is one.
    """

    name: str
    input: tuple[int, int, int, int]
    out: int
    kernel: int | Pair
    stride: int | Pair = 1
    padding: int | Pair | str = 0
    dilation: int | Pair = 1
    groups: int = 1
    bias: bool = True

    def __str__(self) -> str:
        return self.name

    @property
    def arguments(self) -> dict[str, object]:
        """Keyword arguments of conv2d besides the tensors."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    def tensors(
        self, dtype: torch.dtype = torch.float32, channels_last: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Input, weight and bias; the weight is scaled so that outputs are of order one."""
        r, s = _pair(self.kernel)
        shape = (self.out, self.input[1] // self.groups, r, s)
        x = make_tensor(self.input, dtype, channels_last=channels_last, seed=1)
        weight = make_tensor(shape, dtype, channels_last=channels_last, seed=2)
        weight.mul_((shape[1] * r * s) ** -0.5)
        return x, weight, make_tensor((self.out,), dtype, seed=3) if self.bias else None


CONV2D_EDGES = [
    Conv2dCase("1x1 image", (1, 1, 1, 1), 1, 1),
    Conv2dCase("kernel as large as the padded input", (2, 3, 3, 4), 5, (5, 6), padding=1),
    Conv2dCase("one output pixel", (3, 7, 5, 5), 11, 5),
    Conv2dCase("prime sizes", (3, 13, 17, 19), 23, (3, 5), padding=(1, 2)),
    Conv2dCase("one channel more than a tile", (2, 17, 7, 5), 33, 3, padding=1),
    Conv2dCase("one channel less than a tile", (2, 15, 5, 9), 31, 3, padding=1),
    Conv2dCase("exactly one tile", (1, 16, 14, 8), 32, 3, padding=1),
    Conv2dCase("two deep blocks", (1, 72, 5, 5), 20, 3, padding=1),
    Conv2dCase("stride 2", (2, 8, 9, 10), 12, 3, stride=2, padding=1),
    Conv2dCase("stride larger than the kernel", (2, 4, 11, 13), 6, 2, stride=(3, 4)),
    Conv2dCase("dilation", (2, 6, 13, 11), 8, 3, padding=(2, 3), dilation=(2, 3)),
    Conv2dCase("stride and dilation share a factor", (1, 5, 12, 12), 7, 3, stride=2, padding=2, dilation=2),
    Conv2dCase("padding wider than the kernel", (1, 3, 4, 4), 5, 2, padding=3),
    Conv2dCase("groups", (2, 12, 8, 8), 18, 3, padding=1, groups=3),
    Conv2dCase("groups, strided, odd widths", (2, 15, 9, 7), 10, 3, stride=(1, 2), padding=1, groups=5),
    Conv2dCase("depthwise", (2, 20, 9, 9), 20, 3, padding=1, groups=20),
    Conv2dCase("depthwise with a multiplier", (2, 6, 8, 8), 18, 3, stride=2, padding=1, groups=6),
    Conv2dCase("same, even kernel", (2, 3, 8, 7), 4, (2, 4), padding="same"),
    Conv2dCase("same, dilated", (2, 3, 8, 7), 4, 3, padding="same", dilation=2),
    Conv2dCase("valid", (2, 3, 8, 7), 4, 3, padding="valid"),
    Conv2dCase("no bias", (2, 4, 6, 6), 8, 1, bias=False),
    Conv2dCase("empty batch", (0, 3, 6, 6), 4, 3, padding=1),
]

LENET = [
    Conv2dCase("LeNet 1", (128, 1, 28, 28), 6, 5, padding=2),
    Conv2dCase("LeNet 2", (128, 6, 14, 14), 16, 5),
]
SLIM_VGG11 = [
    Conv2dCase("slim VGG-11 1", (8, 1, 224, 224), 16, 3, padding=1),
    Conv2dCase("slim VGG-11 2", (8, 16, 112, 112), 32, 3, padding=1),
    Conv2dCase("slim VGG-11 3", (8, 32, 56, 56), 64, 3, padding=1),
    Conv2dCase("slim VGG-11 4", (8, 64, 56, 56), 64, 3, padding=1),
    Conv2dCase("slim VGG-11 5", (8, 64, 28, 28), 128, 3, padding=1),
    Conv2dCase("slim VGG-11 6", (8, 128, 28, 28), 128, 3, padding=1),
    Conv2dCase("slim VGG-11 7", (8, 128, 14, 14), 128, 3, padding=1),
]
VGG11 = [
    Conv2dCase("VGG-11 1", (2, 1, 224, 224), 64, 3, padding=1),
    Conv2dCase("VGG-11 1, 3 channels", (2, 3, 224, 224), 64, 3, padding=1),
    Conv2dCase("VGG-11 2", (2, 64, 112, 112), 128, 3, padding=1),
    Conv2dCase("VGG-11 3", (2, 128, 56, 56), 256, 3, padding=1),
    Conv2dCase("VGG-11 4", (2, 256, 56, 56), 256, 3, padding=1),
    Conv2dCase("VGG-11 5", (2, 256, 28, 28), 512, 3, padding=1),
    Conv2dCase("VGG-11 6", (2, 512, 28, 28), 512, 3, padding=1),
    Conv2dCase("VGG-11 7", (2, 512, 14, 14), 512, 3, padding=1),
]
RESNET18 = [
    Conv2dCase("ResNet-18 stem", (8, 1, 96, 96), 64, 7, stride=2, padding=3),
    Conv2dCase("ResNet-18 stem, 3 channels, 224", (2, 3, 224, 224), 64, 7, stride=2, padding=3),
    Conv2dCase("ResNet-18 64", (8, 64, 24, 24), 64, 3, padding=1),
    Conv2dCase("ResNet-18 64, 224", (4, 64, 56, 56), 64, 3, padding=1),
    Conv2dCase("ResNet-18 64 to 128", (8, 64, 24, 24), 128, 3, stride=2, padding=1),
    Conv2dCase("ResNet-18 shortcut 64 to 128", (8, 64, 24, 24), 128, 1, stride=2),
    Conv2dCase("ResNet-18 128", (8, 128, 12, 12), 128, 3, padding=1),
    Conv2dCase("ResNet-18 128 to 256", (8, 128, 12, 12), 256, 3, stride=2, padding=1),
    Conv2dCase("ResNet-18 shortcut 128 to 256", (8, 128, 12, 12), 256, 1, stride=2),
    Conv2dCase("ResNet-18 256", (8, 256, 6, 6), 256, 3, padding=1),
    Conv2dCase("ResNet-18 256 to 512", (8, 256, 6, 6), 512, 3, stride=2, padding=1),
    Conv2dCase("ResNet-18 shortcut 256 to 512", (8, 256, 6, 6), 512, 1, stride=2),
    Conv2dCase("ResNet-18 512", (8, 512, 3, 3), 512, 3, padding=1),
    Conv2dCase("ResNet-18 512, 224", (4, 512, 7, 7), 512, 3, padding=1),
]
RESNEXT = [
    Conv2dCase("ResNeXt 1x1 in", (8, 64, 24, 24), 64, 1),
    Conv2dCase("ResNeXt groups of 4", (8, 64, 24, 24), 64, 3, padding=1, groups=16),
    Conv2dCase("ResNeXt groups of 16", (8, 64, 24, 24), 64, 3, padding=1, groups=4),
    Conv2dCase("ResNeXt 1x1 out", (8, 64, 24, 24), 128, 1),
]
CONV2D_CHAPTERS = [*LENET, *SLIM_VGG11, *VGG11, *RESNET18, *RESNEXT]
