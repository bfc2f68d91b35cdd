"""Convolution, norm and ReLU as one layer, and torchvision's residual blocks, on the fused ops.

Names of parameters and arguments are torchvision's, so that its checkpoints load, and so that its ``ResNet`` is built
of these blocks: ``torchvision.models.ResNet(cnnext.nn.BasicBlock, [2, 2, 2, 2])``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from cnnext.nn import layers
from cnnext.nn.conv_bn import conv_bn, has_hooks, may_fuse, run
from cnnext.nn.sync import SyncBatchNorm

Norm = Callable[[int], torch.nn.Module]


class ConvBNReLU(torch.nn.Module):
    """``relu(bn(conv(input)))``: a convolution without bias, the norm of its output, and ReLU.

    Args:
        in_channels: C; None: learnt at the first call.
        out_channels, kernel_size, stride, padding, dilation, groups, bias: of the convolution, as for
            ``torch.nn.Conv2d``.
        eps, momentum: of the norm.
        relu: whether there is a ReLU.

    Shapes: (N, C, H, W) to those of the convolution. The children are ``conv`` and ``bn``, as of torchvision's
    ``BasicConv2d``; checkpoints of its ``Conv2dNormActivation``, which calls them 0 and 1, are loaded too.
    """

    def __init__(
        self,
        in_channels: int | None,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = False,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        relu: bool = True,
    ):
        super().__init__()
        geometry: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        self.conv: Any
        self.bn: Any
        if in_channels is None:
            self.conv = layers.LazyConv2d(out_channels, kernel_size, bias=bias, **geometry)
            self.bn = layers.LazyBatchNorm2d(eps, momentum)
        else:
            self.conv = layers.Conv2d(in_channels, out_channels, kernel_size, bias=bias, **geometry)
            self.bn = layers.BatchNorm2d(out_channels, eps, momentum)
        self.relu = relu

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Apply the layer to (N, C, H, W)."""
        if may_fuse(input, self.conv, self.bn):
            return run(input, [(self.conv, self.bn)], relu=self.relu)
        output: torch.Tensor = self.bn(self.conv(input))
        return torch.relu(output) if self.relu else output

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        for number, name in (("0.", "conv."), ("1.", "bn.")):
            for key in [key for key in state_dict if key.startswith(prefix + number)]:
                state_dict[prefix + name + key[len(prefix + number) :]] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def extra_repr(self) -> str:
        """Whether there is a ReLU, for ``print``."""
        return f"relu={self.relu}"


def _norm(norm_layer: Norm | None, channels: int) -> Any:
    """A norm of ours where torch's is asked for."""
    ours: dict[Any, Norm] = {
        None: layers.BatchNorm2d,
        torch.nn.BatchNorm2d: layers.BatchNorm2d,
        torch.nn.SyncBatchNorm: SyncBatchNorm,
    }
    return ours.get(norm_layer, norm_layer)(channels)  # type: ignore[misc]


def _conv3x3(inplanes: int, planes: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> layers.Conv2d:
    return layers.Conv2d(inplanes, planes, 3, stride, dilation, dilation, groups, bias=False)


def _shortcut(block: Any, input: torch.Tensor) -> torch.Tensor:
    """The input, or what ``downsample`` makes of it; that is most often a convolution and a norm."""
    if block.downsample is None:
        return input
    if type(block.downsample) is torch.nn.Sequential and len(block.downsample) == 2 and not has_hooks(block.downsample):
        return conv_bn(input, *block.downsample)
    output: torch.Tensor = block.downsample(input)
    return output


class BasicBlock(torch.nn.Module):
    """Two 3×3 convolutions with batch norm, added to the input or to ``downsample`` of it, then ReLU.

    Args:
        inplanes, planes: channels of the input and of the output.
        stride: of the first convolution.
        downsample: module for the shortcut, where size or channels change.
        groups, base_width, dilation: 1, 64 and 1, the only ones for this block.
        norm_layer: makes a norm from its number of channels; torch.nn's classes stand for ours.

    Shapes: (N, inplanes, H, W) to (N, planes, ⌈H / stride⌉, ⌈W / stride⌉).

    Raises:
        ValueError: ``groups`` or ``base_width`` are others.
        NotImplementedError: ``dilation`` is another.

    Source: He et al., 2016; names and arguments of ``torchvision.models.resnet.BasicBlock``.
    """

    expansion: ClassVar[int] = 1

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: torch.nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: Norm | None = None,
    ):
        super().__init__()
        if groups != 1 or base_width != 64:
            raise ValueError(f"BasicBlock knows groups=1 and base_width=64 only, but got {groups} and {base_width}")
        if dilation > 1:
            raise NotImplementedError(f"BasicBlock knows dilation=1 only, but got {dilation}")
        self.conv1 = _conv3x3(inplanes, planes, stride)
        self.bn1 = _norm(norm_layer, planes)
        self.relu = torch.nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(planes, planes)
        self.bn2 = _norm(norm_layer, planes)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block to (N, C, H, W)."""
        if may_fuse(x, self.conv1, self.bn1, self.relu, self.conv2, self.bn2):
            return run(x, [(self.conv1, self.bn1), (self.conv2, self.bn2)], _shortcut(self, x))
        output = self.relu(self.bn1(self.conv1(x)))
        output = self.bn2(self.conv2(output))
        result: torch.Tensor = self.relu(output + _shortcut(self, x))
        return result


class Bottleneck(torch.nn.Module):
    """1×1, 3×3 and 1×1 convolutions with batch norm, added to the input or to ``downsample`` of it, then ReLU.

    Args:
        inplanes: channels of the input; the output has 4 · ``planes``.
        planes: channels of the 3×3 convolution, times ``groups · base_width / 64``.
        stride, dilation, groups: of the 3×3 convolution. With groups=32 and base_width=4 it is ResNeXt's block.
        downsample: module for the shortcut, where size or channels change.
        norm_layer: makes a norm from its number of channels; torch.nn's classes stand for ours.

    Shapes: (N, inplanes, H, W) to (N, 4 · planes, ⌈H / stride⌉, ⌈W / stride⌉).
    Source: He et al., 2016, with the stride in the 3×3 convolution; Xie et al., 2017; names and arguments of
    ``torchvision.models.resnet.Bottleneck``.
    """

    expansion: ClassVar[int] = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: torch.nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: Norm | None = None,
    ):
        super().__init__()
        width = int(planes * (base_width / 64.0)) * groups
        self.conv1 = layers.Conv2d(inplanes, width, 1, bias=False)
        self.bn1 = _norm(norm_layer, width)
        self.conv2 = _conv3x3(width, width, stride, groups, dilation)
        self.bn2 = _norm(norm_layer, width)
        self.conv3 = layers.Conv2d(width, planes * self.expansion, 1, bias=False)
        self.bn3 = _norm(norm_layer, planes * self.expansion)
        self.relu = torch.nn.ReLU(inplace=True)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block to (N, C, H, W)."""
        if may_fuse(x, self.conv1, self.bn1, self.relu, self.conv2, self.bn2, self.conv3, self.bn3):
            links = [(self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)]
            return run(x, links, _shortcut(self, x))
        output = self.relu(self.bn1(self.conv1(x)))
        output = self.relu(self.bn2(self.conv2(output)))
        output = self.bn3(self.conv3(output))
        result: torch.Tensor = self.relu(output + _shortcut(self, x))
        return result
