"""The sizes of a two-dimensional convolution and their checks: csrc/common/conv2d_shape.h and conv2d_checks.h again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from cnnext.triton.tensors import check_pair, check_shape

WIDE_FROM = 2**31


@dataclass(frozen=True)
class Conv2dShape:
    """n c h w input, k r s weight, p q output; c and k count all groups."""

    n: int
    c: int
    h: int
    w: int
    k: int
    r: int
    s: int
    p: int
    q: int
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @property
    def group_c(self) -> int:
        """Input channels of a group."""
        return self.c // self.groups

    @property
    def group_k(self) -> int:
        """Output channels of a group."""
        return self.k // self.groups

    @property
    def pixels(self) -> int:
        """Output pixels of the batch: gemm_m."""
        return self.n * self.p * self.q

    @property
    def is_plain(self) -> bool:
        """Whether every output pixel sees the one input pixel at its place."""
        ones = (1, 1)
        return (self.r, self.s) == ones and self.stride == ones and self.padding == (0, 0)

    @property
    def is_depthwise(self) -> bool:
        """Whether a group has one input channel, and there are several."""
        return self.group_c == 1 and self.groups > 1

    def constants(self) -> dict[str, Any]:
        """The window, as compile-time constants of a kernel, and whether offsets need 64 bits."""
        largest = self.n * max(self.c * self.h * self.w, self.k * self.p * self.q)
        return {
            "R": self.r,
            "S": self.s,
            "STRIDE_H": self.stride[0],
            "STRIDE_W": self.stride[1],
            "PAD_H": self.padding[0],
            "PAD_W": self.padding[1],
            "DIL_H": self.dilation[0],
            "DIL_W": self.dilation[1],
            "WIDE": bool(max(largest, self.k * self.group_c * self.r * self.s) >= WIDE_FROM),
        }

    def sizes(self) -> dict[str, int]:
        """Arguments that every kernel takes."""
        return {"height": self.h, "width": self.w, "out_height": self.p, "out_width": self.q}

    def swapped(self) -> Conv2dShape:
        """The shape of the gradient of the input of a plain convolution, which is one too, of c filters."""
        return replace(self, c=self.k, k=self.c)


def conv2d_shape(
    input: Sequence[int],
    weight: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Conv2dShape:
    """Check what the three passes have in common, and fill the sizes.

    Raises:
        RuntimeError: they do not fit; the text is that of the other backends.
    """
    for name, size in (("input", input), ("weight", weight)):
        if len(size) != 4:
            raise RuntimeError(f"expected `{name}` with 4 dimensions, but got shape {list(size)}")
    if any(size < 0 for size in input):
        raise RuntimeError(f"expected `input` of non-negative sizes, but got {list(input)}")
    check_pair(stride, "stride", 1)
    check_pair(padding, "padding", 0)
    check_pair(dilation, "dilation", 1)
    if groups < 1:
        raise RuntimeError(f"expected `groups` to be at least 1, but got {groups}")
    (n, c, *image), (k, group_c, *taps) = input, weight
    if taps[0] < 1 or taps[1] < 1:
        raise RuntimeError(f"expected `weight` to have at least one tap, but got shape {list(weight)}")
    if k < 1 or k % groups:
        raise RuntimeError(
            f"expected the {k} output channels of `weight` to be a positive multiple of `groups`={groups}"
        )
    if group_c < 1 or c != group_c * groups:
        raise RuntimeError(
            f"expected `input` with {group_c * groups} channels (`weight` has {group_c} for each of "
            f"`groups`={groups}), but got shape {list(input)}"
        )
    out = []
    for d in (0, 1):
        span, room = dilation[d] * (taps[d] - 1) + 1, image[d] + 2 * padding[d]
        if span > room:
            raise RuntimeError(
                f"expected `weight` to fit into `input`: the kernel spans {span} of dimension {d + 2} but the padded "
                f"input has {room} (`input` {list(input)}, `weight` {list(weight)}, `padding` {list(padding)}, "
                f"`dilation` {list(dilation)})"
            )
        out.append((room - span) // stride[d] + 1)
    (h, w), (r, s), (p, q) = image, taps, out
    pairs = [(values[0], values[1]) for values in (stride, padding, dilation)]
    return Conv2dShape(n, c, h, w, k, r, s, p, q, pairs[0], pairs[1], pairs[2], groups)


def check_grad(grad: torch.Tensor, shape: Conv2dShape) -> None:
    """Raise RuntimeError unless ``grad`` has the shape of the output."""
    check_shape(grad, "grad", (shape.n, shape.k, shape.p, shape.q))
