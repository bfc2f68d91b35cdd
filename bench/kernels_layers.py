"""The layers on which the emulator counts what the CUDA kernels do: one of each model, cut where time asks."""

from __future__ import annotations

import torch

import cnnext.functional as F
from cnnext.backends import current
from cnnext.testing import make_tensor, present_backends
from cnnext.testing.cases import Conv2dCase

CONVOLUTIONS = [
    Conv2dCase("LeNet 2", (4, 6, 14, 14), 16, 5),
    Conv2dCase("VGG-11 3, cut", (1, 128, 14, 14), 128, 3, padding=1),
    Conv2dCase("ResNet-18 64 to 128, cut", (2, 64, 14, 14), 128, 3, stride=2, padding=1),
    Conv2dCase("ResNet-18 shortcut, cut", (2, 64, 14, 14), 128, 1, stride=2),
    Conv2dCase("depthwise", (2, 64, 14, 14), 64, 3, padding=1, groups=64),
]
DTYPES = (torch.float32, torch.float16)


def _backward(output: torch.Tensor) -> None:
    grad = make_tensor(tuple(output.shape), output.dtype, seed=9)
    output.backward(torch.empty_like(output).copy_(grad))


def _convolution(case: Conv2dCase, dtype: torch.dtype, channels_last: bool) -> None:
    x, weight, bias = case.tensors(dtype, channels_last)
    _backward(F.conv2d(x.requires_grad_(), weight.requires_grad_(), bias, **case.arguments))


def _pools_and_norm(dtype: torch.dtype, channels_last: bool) -> None:
    x = make_tensor((2, 64, 28, 28), dtype, channels_last=channels_last, requires_grad=True)
    _backward(F.max_pool2d(x, 3, 2, 1))
    _backward(F.avg_pool2d(x, 2))
    _backward(F.adaptive_avg_pool2d(x, 1))
    if current() not in present_backends("batch_norm"):
        return
    scale = make_tensor((64,), torch.float32, seed=1, requires_grad=True)
    _backward(F.batch_norm(x, None, None, scale.to(dtype), scale.to(dtype), training=True))


def _corr2d(dtype: torch.dtype) -> None:
    x = make_tensor((224, 224), dtype, requires_grad=True)
    _backward(F.corr2d(x, make_tensor((3, 3), dtype, seed=1, requires_grad=True)))


def layers() -> dict[str, object]:
    """Name of each case, and a function that runs it forward and backward."""
    cases: dict[str, object] = {}
    for dtype in DTYPES:
        kind = str(dtype).removeprefix("torch.")
        cases[f"corr2d, {kind}"] = lambda dtype=dtype: _corr2d(dtype)
        for last in (False, True):
            layout = "NHWC" if last else "NCHW"
            for case in CONVOLUTIONS:
                cases[f"{case.name}, {kind}, {layout}"] = lambda c=case, d=dtype, last=last: _convolution(c, d, last)
            cases[f"pools and batch norm, {kind}, {layout}"] = lambda d=dtype, last=last: _pools_and_norm(d, last)
    return cases
