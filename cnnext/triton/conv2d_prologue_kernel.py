# mypy: ignore-errors
"""The prologue of the convolution kernels: the norm and the ReLU of the layer before, while its output is loaded.

    v = max((x − center)·scale + offset, 0), rounded to the type of x; 0 outside of the image

Layout: coefficients [center, scale, its rest, offset][C], as batch_norm_coefficients_kernel leaves them; channels lie
along the last axis of a tile.
Idea: the activation between two convolutions is never in memory; what is multiplied has the bits that
batch_norm_apply_kernel would have written.
"""

import triton
import triton.language as tl


@triton.jit
def channel_coefficients(coefficients_ptr, c, mask, channels):
    """(center, scale, rest, offset) of the channels ``c``, each a row."""
    center = tl.load(coefficients_ptr + c, mask=mask, other=0.0)[None, :]
    scale = tl.load(coefficients_ptr + channels + c, mask=mask, other=0.0)[None, :]
    rest = tl.load(coefficients_ptr + 2 * channels + c, mask=mask, other=0.0)[None, :]
    offset = tl.load(coefficients_ptr + 3 * channels + c, mask=mask, other=0.0)[None, :]
    return center, scale, rest, offset


@triton.jit
def normalised(x_tile, mask, center, scale, rest, offset):
    """What the layer before would have written of ``x_tile``; a NaN stays."""
    apart = x_tile.to(center.dtype) - center
    value = tl.fma(apart, scale, tl.fma(apart, rest, offset))
    value = tl.where(value < 0.0, 0.0, value)
    return tl.where(mask, value, 0.0).to(x_tile.dtype)
