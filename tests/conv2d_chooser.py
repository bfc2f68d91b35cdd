"""What the chooser of conv2d's CUDA kernels says, from Python."""

from __future__ import annotations

import ctypes
import dataclasses

import emulated
import torch

PASSES = ("forward", "backward_input", "backward_weight")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
A100 = (80, 108, 163 * 1024)
T4 = (75, 40, 64 * 1024)


@dataclasses.dataclass(frozen=True)
class Shape:
    """Conv2dShape of csrc/common/conv2d_shape.h, from a call's arguments."""

    input: tuple[int, int, int, int]
    out: int
    kernel: int = 3
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1

    def numbers(self) -> list[int]:
        n, c, h, w = self.input
        p, q = ((size + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1 for size in (h, w))
        pairs = [x for x in (self.stride, self.padding, self.dilation) for _ in range(2)]
        return [n, c, h, w, self.out, self.kernel, self.kernel, p, q, *pairs, self.groups]


def explain(
    shape: Shape,
    which: str = "forward",
    dtype: torch.dtype = torch.float32,
    *,
    channels_last: bool = False,
    allow_tf32: bool = False,
    allow_winograd: bool = False,
    device: tuple[int, int, int] = A100,
    forced: str | None = None,
) -> tuple[str, int, dict[str, str]]:
    """The candidate taken, the splits of its weight gradient, and the reason against each other candidate."""
    numbers = [
        *shape.numbers(),
        PASSES.index(which),
        DTYPES.index(dtype),
        channels_last,
        allow_tf32,
        allow_winograd,
        *device,
    ]
    text = ctypes.create_string_buffer(8192)
    needed = emulated.choosers().cnnext_conv2d_explain(
        (ctypes.c_int64 * len(numbers))(*numbers), forced.encode() if forced else None, text, len(text)
    )
    assert needed <= len(text)
    first, *others = text.value.decode().splitlines()
    taken, _, splits = first.rpartition(" splits ")
    return taken, int(splits), dict(line.split(": ", 1) for line in others)
