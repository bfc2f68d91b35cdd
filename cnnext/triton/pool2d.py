"""The shape of a pool and its checks: csrc/common/pool2d_shape.h and csrc/torch/pool2d_checks.h again, same texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton

from cnnext.ops.pool2d_shape import pool_output_shape, window_count
from cnnext.triton.launch import Kernel, launch
from cnnext.triton.tensors import check_pair, check_rank

Ints = Sequence[int]
LONGEST_SIDE = 2**26
WIDE_FROM = 2**31


@dataclass(frozen=True)
class Pool2dShape:
    """n c h w input, r s window, p q output."""

    n: int
    c: int
    h: int
    w: int
    r: int
    s: int
    p: int
    q: int
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)

    @property
    def input(self) -> tuple[int, int, int, int]:
        """Shape of the input."""
        return self.n, self.c, self.h, self.w

    @property
    def output(self) -> tuple[int, int, int, int]:
        """Shape of the output."""
        return self.n, self.c, self.p, self.q

    def window(self) -> dict[str, int]:
        """The window, as compile-time constants of a kernel."""
        names = ("R", "S", "STRIDE_H", "STRIDE_W", "PAD_H", "PAD_W", "DIL_H", "DIL_W")
        values = (self.r, self.s, *self.stride, *self.padding, *self.dilation)
        return dict(zip(names, values, strict=True))

    def taps(self) -> dict[str, int]:
        """The most taps of a window that lie inside the input, by axis."""
        return {
            "TAPS_R": min(self.r, triton.cdiv(self.h, self.dilation[0])),
            "TAPS_S": min(self.s, triton.cdiv(self.w, self.dilation[1])),
        }

    def windows(self) -> dict[str, int]:
        """The most windows that see a pixel, by axis."""
        return {
            "WINDOWS_P": min((self.r - 1) * self.dilation[0] // self.stride[0] + 1, self.p),
            "WINDOWS_Q": min((self.s - 1) * self.dilation[1] // self.stride[1] + 1, self.q),
        }


def over(
    kernel: Kernel, output: torch.Tensor, shape: Pool2dShape, last: bool, arguments: dict[str, Any], constants: Any
) -> None:
    """Launch ``kernel`` over all values of ``output``, which is dense: channels_last if ``last``."""
    count = output.numel()
    reach = max(shape.h + shape.r * shape.dilation[0], shape.w + shape.s * shape.dilation[1]) + max(shape.padding)
    largest = max(count, shape.n * shape.c * max(shape.h * shape.w, shape.p * shape.q), shape.r * shape.s, 4 * reach)
    sizes = {"count": count, "channels": shape.c, "height": shape.h, "width": shape.w}
    launch(
        kernel,
        output,
        lambda config: (triton.cdiv(count, config["BLOCK"]),),
        {**arguments, **sizes, "out_height": shape.p, "out_width": shape.q},
        {**constants, "LAST": last, "WIDE": bool(largest >= WIDE_FROM)},
        hints=(count,),
    )


def _check_pair(pair: Ints, name: str, at_least: int) -> None:
    check_pair(pair, name, at_least)
    if max(pair) >= 2**31:
        raise RuntimeError(f"expected `{name}` below 2^31, but got {list(pair)}")


def _checked(input: Ints, name: str, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints) -> None:
    valid = len(input) == 4 and input[0] >= 0 and min(input[1:]) >= 1
    if not valid or max(input[2:]) > LONGEST_SIDE:
        raise RuntimeError(
            f"expected `{name}` with 4 dimensions, of which only the first may be empty and the last two be at most "
            f"2^26, but got shape {list(input)}"
        )
    _check_pair(kernel_size, "kernel_size", 1)
    _check_pair(stride, "stride", 1)
    _check_pair(padding, "padding", 0)
    _check_pair(dilation, "dilation", 1)
    if any(pad > kernel // 2 for pad, kernel in zip(padding, kernel_size, strict=True)):
        raise RuntimeError(
            f"expected `padding` of at most half of `kernel_size`, but got {list(padding)} and {list(kernel_size)}"
        )


def _shape(input: Ints, out: Ints, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Pool2dShape:
    pairs = [(pair[0], pair[1]) for pair in (stride, padding, dilation)]
    n, c, h, w = input
    return Pool2dShape(n, c, h, w, kernel_size[0], kernel_size[1], out[0], out[1], pairs[0], pairs[1], pairs[2])


def pool2d_shape(
    input: torch.Tensor, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool
) -> Pool2dShape:
    """Check the arguments of a pool, and fill the sizes.

    Raises:
        RuntimeError: they do not fit; the text is that of the other backends.
    """
    window = (kernel_size, stride, padding, dilation)
    _checked(input.shape, "input", *window)
    out = pool_output_shape(input, *window, ceil_mode)[2:]
    return _shape(input.shape, out, *window)


def pool2d_shape_from_output(
    input: Ints,
    name: str,
    kernel_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    output: torch.Tensor,
    output_name: str,
) -> Pool2dShape:
    """The same for ops that are given an output of the pool, its gradient, say: the windows are read from it."""
    window = (kernel_size, stride, padding, dilation)
    _checked(input, name, *window)
    check_rank(output, output_name, 4)
    possible = [
        out >= 1 and out in (window_count(*axis, False), window_count(*axis, True))
        for out, axis in zip(output.shape[2:], zip(input[2:], *window, strict=True), strict=True)
    ]
    if list(output.shape[:2]) != list(input[:2]) or not all(possible):
        raise RuntimeError(
            f"expected `{output_name}` to have the shape of the pool's output, but got {list(output.shape)} for "
            f"`{name}` {list(input)}, kernel_size {list(kernel_size)}, stride {list(stride)}, padding {list(padding)} "
            f"and dilation {list(dilation)}"
        )
    return _shape(input, output.shape[2:], *window)
