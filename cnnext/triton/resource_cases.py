"""Launches to compile without a device: every op and pass, over tensors without memory, in sizes of real layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch

from cnnext.triton import (
    adaptive_avg_pool2d,
    avg_pool2d,
    batch_norm,
    conv2d,
    conv_bn_relu,
    conv_bn_relu_norm,
    corr2d,
    max_pool2d,
)
from cnnext.triton.conv2d_epilogue import Epilogue
from cnnext.triton.tensors import accumulator_dtype

Cases = Iterator[tuple[str, Callable[[], Any]]]


def _meta(*shape: int, dtype: torch.dtype, last: bool = False) -> torch.Tensor:
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=layout)


def _corr2d_cases(dtype: torch.dtype, last: bool, tf32: bool) -> Cases:
    if last or tf32:
        return
    image, kernel, grad = (_meta(*shape, dtype=dtype) for shape in ((128, 96), (3, 5), (126, 92)))
    yield "corr2d", lambda: corr2d.corr2d(image, kernel)
    yield "corr2d_backward_input", lambda: corr2d.corr2d_backward_input(grad, kernel)
    yield "corr2d_backward_kernel", lambda: corr2d.corr2d_backward_kernel(grad, image)


def _conv2d_cases(dtype: torch.dtype, last: bool, tf32: bool) -> Cases:
    def passes(name: str, c: int, k: int, kernel: int, stride: int, groups: int = 1) -> Any:
        pad, size = kernel // 2, 56
        out = (size + 2 * pad - kernel) // stride + 1
        x, grad = (_meta(8, *shape, dtype=dtype, last=last) for shape in ((c, size, size), (k, out, out)))
        weight = _meta(k, c // groups, kernel, kernel, dtype=dtype, last=last)
        bias = _meta(k, dtype=dtype)
        geometry = ((stride, stride), (pad, pad), (1, 1), groups)
        more: Any = (*geometry, tf32, False)
        epilogue = Epilogue(bias, residual=grad, relu=True, statistics=True)
        yield f"{name} forward", lambda: conv2d.convolve(x, weight, geometry, Epilogue(bias), tf32)
        yield f"{name} forward, all of the epilogue", lambda: conv2d.convolve(x, weight, geometry, epilogue, tf32)
        yield f"{name} backward_input", lambda: conv2d.conv2d_backward_input(grad, weight, x.shape, *more)
        yield f"{name} backward_weight", lambda: conv2d.conv2d_backward_weight(grad, x, weight.shape, *more)
        values = _meta(c, dtype=accumulator_dtype(grad))
        norm: Any = (values, values, values, values, 1e-5)
        fused: Any = (grad, x, weight.shape, *norm, *more)
        yield f"{name} fused", lambda: conv_bn_relu.conv2d_statistics(x, weight, None, *norm, *more)
        yield f"{name} fused, weight", lambda: conv_bn_relu.conv2d_backward_weight_prologue(*fused)

    yield from passes("3x3", 128, 128, 3, 1)
    yield from passes("3x3 stride 2", 128, 256, 3, 2)
    yield from passes("1x1", 256, 128, 1, 1)
    yield from passes("first layer", 3, 64, 7, 2)
    yield from passes("groups of 4", 64, 64, 3, 1, groups=16)
    if not tf32:
        yield from passes("depthwise", 128, 128, 3, 1, groups=128)


POOLS = (("2x2", 2, 2, 0, 28), ("3x3 stride 2", 3, 2, 1, 28), ("17x17", 17, 1, 8, 56))
"""(name, kernel size, stride, padding, output size) for images of 56 × 56."""


def _pool_cases(dtype: torch.dtype, last: bool, tf32: bool) -> Cases:
    if tf32:
        return
    image, size = _meta(8, 64, 56, 56, dtype=dtype, last=last), (8, 64, 56, 56)
    for name, kernel, stride, pad, out in POOLS:
        grad = _meta(8, 64, out, out, dtype=dtype, last=last)
        tap = _meta(8, 64, out, out, dtype=torch.uint8 if kernel < 17 else torch.int32, last=last)
        window = ((kernel, kernel), (stride, stride), (pad, pad))
        both = (*window, (1, 1))
        yield f"max_pool2d {name}", partial(max_pool2d.max_pool2d, image, *both, False)
        yield f"max_pool2d_backward {name}", partial(max_pool2d.max_pool2d_backward, grad, tap, size, *both)
        yield f"max_pool2d_gather {name}", partial(max_pool2d.max_pool2d_gather, image, tap, *both)
        for padded, divisor in ((True, None), (False, None), (True, 3)):
            more, case = (padded, divisor), f"{name} {padded} {divisor}"
            yield f"avg_pool2d {case}", partial(avg_pool2d.avg_pool2d, image, *window, False, *more)
            yield f"avg_pool2d_backward {case}", partial(avg_pool2d.avg_pool2d_backward, grad, size, *window, *more)
    for out in (1, 7):
        grad = _meta(8, 64, out, out, dtype=dtype, last=last)
        yield f"adaptive {out}", partial(adaptive_avg_pool2d.adaptive_avg_pool2d, image, (out, out))
        yield f"adaptive {out} backward", partial(adaptive_avg_pool2d.adaptive_avg_pool2d_backward, grad, size)


def _batch_norm_cases(dtype: torch.dtype, last: bool, tf32: bool) -> Cases:
    if tf32:
        return
    x, wide = _meta(8, 64, 28, 28, dtype=dtype, last=last), accumulator_dtype(_meta(1, dtype=dtype))
    for kind in {dtype, wide}:
        c = _meta(64, dtype=kind)
        name = f"with parameters in {kind}"
        yield f"batch_norm {name}", partial(batch_norm.batch_norm, x, c, c, None, None, True, 1e-5)
        yield f"batch_norm in evaluation {name}", partial(batch_norm.batch_norm, x, c, c, c, c, False, 1e-5)
        yield f"batch_norm_update_ {name}", partial(batch_norm.batch_norm_update_, c, c, c, c, 9, 0.1)
        for training in (True, False):
            arguments = (x, x, c, c, c, training, 1e-5)
            yield f"batch_norm_backward {training} {name}", partial(batch_norm.batch_norm_backward, *arguments)
    yield "batch_norm without parameters", partial(batch_norm.batch_norm, x, None, None, None, None, True, 1e-5)


def _batch_norm_relu_cases(dtype: torch.dtype, last: bool, tf32: bool) -> Cases:
    if tf32:
        return
    x = _meta(8, 64, 28, 28, dtype=dtype, last=last)
    norm = (_meta(64, dtype=accumulator_dtype(x)),) * 4
    yield "batch_norm_relu", partial(conv_bn_relu_norm.batch_norm_relu, x, *norm, x, True, 1e-5)
    for name, output in (("input", None), ("output", x)):
        backward = partial(conv_bn_relu_norm.batch_norm_relu_backward, x, x, *norm, output, True, 1e-5)
        yield f"batch_norm_relu_backward by {name}", backward


SOURCES = (_corr2d_cases, _conv2d_cases, _pool_cases, _batch_norm_cases, _batch_norm_relu_cases)
KINDS = {
    "float16": (torch.float16, False),
    "bfloat16": (torch.bfloat16, False),
    "float32": (torch.float32, False),
    "tf32": (torch.float32, True),
    "float64": (torch.float64, False),
}


def cases(kinds: Iterable[str] = KINDS, only: Iterable[str] = ("",)) -> Cases:
    """(name, launcher without arguments) for every op, pass, kind and layout whose name has one of ``only`` in it."""
    for kind in kinds:
        for layout in ("nchw", "channels_last"):
            for source in SOURCES:
                for name, run in source(KINDS[kind][0], layout == "channels_last", KINDS[kind][1]):
                    full = f"{name}, {kind}, {layout}"
                    if any(part in full for part in only):
                        yield full, run
