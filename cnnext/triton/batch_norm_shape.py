"""How the kernels of batch_norm see a batch."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import torch
import triton

from cnnext.ops.arguments import is_channels_last
from cnnext.triton.launch import Hints
from cnnext.triton.reduce import splits_for

SAMPLES_A_STEP = 1024
WIDE_FROM = 2**31


def bits(value: float) -> int:
    """A float64 as an integer: kernels would take a float as a float32."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def contiguous(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """A parameter with its values side by side, or none."""
    return None if tensor is None else tensor.contiguous()


@dataclass(frozen=True)
class BatchNormShape:
    """[image, channel, pixel]: a channels_last batch is one image, and its samples lie in order."""

    images: int
    channels: int
    pixels: int
    last: bool
    splits: int
    samples_each: int

    @staticmethod
    def of(x: torch.Tensor) -> BatchNormShape:
        """The shape of a batch (N, C, H, W), and into how many shares its samples are cut."""
        n, c, h, w = x.shape
        last = is_channels_last(x)
        steps = triton.cdiv(n * h * w, SAMPLES_A_STEP)
        splits = splits_for(x, triton.cdiv(c, 64) if last else c, steps, least_steps=2)
        each = triton.cdiv(steps, splits) * SAMPLES_A_STEP
        return BatchNormShape(1 if last else n, c, n * h * w if last else h * w, last, splits, each)

    @property
    def samples(self) -> int:
        """Values of a channel."""
        return self.images * self.pixels

    @property
    def hints(self) -> Hints:
        """What the choice of a config depends on."""
        return self.channels, int(self.last), self.samples

    def sizes(self) -> dict[str, int]:
        """Arguments of the kernels over samples."""
        return {"samples": self.samples, "pixels": self.pixels, "channels": self.channels}

    def wide(self) -> dict[str, bool]:
        """Whether offsets need 64 bits."""
        return {"WIDE": bool(self.samples * self.channels >= WIDE_FROM)}

    def strides(self) -> dict[str, int]:
        """Steps from image to image, from channel to channel, from pixel to pixel, of every tensor of the batch."""
        if self.last:
            return {"step_n": 0, "step_c": 1, "step_i": self.channels}
        return {"step_n": self.channels * self.pixels, "step_c": self.pixels, "step_i": 1}

    def dense(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` with its samples in order, copied if need be."""
        layout = torch.channels_last if self.last else torch.contiguous_format
        return tensor if tensor.is_contiguous(memory_format=layout) else tensor.contiguous(memory_format=layout)

    def reduce_grid(self, config: dict[str, int]) -> tuple[int, int]:
        """Programs of a reduction."""
        return triton.cdiv(self.channels, config["BLOCK_C"]), self.splits

    def apply_grid(self, config: dict[str, int]) -> tuple[int, int]:
        """Programs that go through all values."""
        return triton.cdiv(self.samples, config["BLOCK_S"]), triton.cdiv(self.channels, config["BLOCK_C"])

    def channel_grid(self, config: dict[str, int]) -> tuple[int]:
        """Programs that go through the channels."""
        return (triton.cdiv(self.channels, config["BLOCK"]),)
