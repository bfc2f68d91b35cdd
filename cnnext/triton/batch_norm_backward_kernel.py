# mypy: ignore-errors
"""batch_norm, backward.      With r = 1/sqrt(var + eps), M samples of a channel, G = Σ g and D = Σ g·(x − mean):

    grad_bias = G      grad_weight = D·r      grad_x = weight·r·(g − G/M − (x − mean)·r²·D/M)

and grad_x = weight·r·g where the statistics are not the batch's.
Layout, splitting and determinism: as forward. Sums are in float64: partial is [SPLITS][G, D][C]. What each value needs
is grad_x = a·g + b·(x − center) + c.
"""

import triton
import triton.language as tl

from cnnext.triton.batch_norm_kernel import CHANNELS, TILES, tile_cost, tile_interpreted
from cnnext.triton.launch import Kernel


@triton.jit
def sum_of_samples(tile):
    """Σ over the samples of a tile, in float64.

    Values that are float64 already are cut in two: what has room in a float32 is added without rounding, and the rest
    is so small that its rounding does not show.
    """
    if tile.dtype == tl.float64:
        high = tile.to(tl.float32).to(tl.float64)
        high = tl.where(high - high == 0.0, high, tile)  # too large for a float32
        low = tl.where(high - high == 0.0, tile - high, 0.0)
        total = tl.sum(high, axis=1) + tl.sum(low, axis=1)
    else:
        total = tl.sum(tile.to(tl.float64), axis=1)
    return total


@triton.jit
def batch_norm_backward_sums_kernel(
    g_ptr, x_ptr, mean_ptr, partial_ptr,
    samples, samples_each, pixels, channels, g_n, g_c, g_i, x_n, x_c, x_i,
    WIDE: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """G and D of BLOCK_C channels over one share of the samples."""
    block, split = tl.program_id(0), tl.program_id(1)
    if WIDE:
        block, split = block.to(tl.int64), split.to(tl.int64)
    offs_c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = offs_c < channels
    begin = split * samples_each
    end = tl.minimum(begin + samples_each, samples)
    wide: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    center = tl.load(mean_ptr + offs_c, mask=c_mask, other=0.0).to(wide)[:, None]
    total, dot = tl.zeros((BLOCK_C,), tl.float64), tl.zeros((BLOCK_C,), tl.float64)
    for start in range(begin, end, BLOCK_S):
        offs_s = start + tl.arange(0, BLOCK_S)
        mask = c_mask[:, None] & (offs_s < end)[None, :]
        image, i = (offs_s // pixels)[None, :], (offs_s % pixels)[None, :]
        g_tile = tl.load(g_ptr + (offs_c * g_c)[:, None] + image * g_n + i * g_i, mask=mask, other=0.0).to(wide)
        x_tile = tl.load(x_ptr + (offs_c * x_c)[:, None] + image * x_n + i * x_i, mask=mask, other=0.0).to(wide)
        total += sum_of_samples(g_tile)
        product = g_tile.to(tl.float64) * (x_tile - center).to(tl.float64)
        dot += tl.sum(tl.where(mask, product, 0.0), axis=1)
    row_ptr = partial_ptr + 2 * split * channels + offs_c
    tl.store(row_ptr, total, mask=c_mask)
    tl.store(row_ptr + channels, dot, mask=c_mask)


@triton.jit
def batch_norm_backward_coefficients_kernel(
    partial_ptr, weight_ptr, mean_ptr, var_ptr, grad_weight_ptr, grad_bias_ptr, coefficients_ptr,
    samples, splits, channels, eps_bits,
    TRAINING: tl.constexpr, HAS_WEIGHT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """grad_weight, grad_bias, and coefficients [center, a, b, c][C]."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < channels
    wide: tl.constexpr = coefficients_ptr.dtype.element_ty
    total, dot = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
    for split in range(splits):
        row_ptr = partial_ptr + 2 * split * channels + offs
        total += tl.load(row_ptr, mask=mask, other=0.0)
        dot += tl.load(row_ptr + channels, mask=mask, other=0.0)
    eps = eps_bits.to(tl.int64).to(tl.float64, bitcast=True)
    r = 1.0 / tl.sqrt(tl.load(var_ptr + offs, mask=mask, other=1.0).to(tl.float64) + eps)
    tl.store(grad_bias_ptr + offs, total.to(wide), mask=mask)
    tl.store(grad_weight_ptr + offs, (dot * r).to(wide), mask=mask)
    a = r
    if HAS_WEIGHT:
        a = a * tl.load(weight_ptr + offs, mask=mask, other=0.0).to(tl.float64)
    tl.store(coefficients_ptr + offs, tl.load(mean_ptr + offs, mask=mask, other=0.0).to(wide), mask=mask)
    tl.store(coefficients_ptr + channels + offs, a.to(wide), mask=mask)
    if TRAINING:
        n = samples.to(tl.float64)
        tl.store(coefficients_ptr + 2 * channels + offs, (-a * r * r * dot / n).to(wide), mask=mask)
        tl.store(coefficients_ptr + 3 * channels + offs, (-a * total / n).to(wide), mask=mask)


@triton.jit
def batch_norm_backward_apply_kernel(
    g_ptr, x_ptr, coefficients_ptr, gx_ptr,
    samples, pixels, channels, g_n, g_c, g_i, x_n, x_c, x_i, gx_n, gx_c, gx_i,
    TRAINING: tl.constexpr, WIDE: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """grad_x = a·g + b·(x − center) + c, or a·g without training."""
    block_s, block_c = tl.program_id(0), tl.program_id(1)
    if WIDE:
        block_s, block_c = block_s.to(tl.int64), block_c.to(tl.int64)
    offs_c = block_c * BLOCK_C + tl.arange(0, BLOCK_C)
    offs_s = block_s * BLOCK_S + tl.arange(0, BLOCK_S)
    c_mask = offs_c < channels
    mask = c_mask[:, None] & (offs_s < samples)[None, :]
    n, i = (offs_s // pixels)[None, :], (offs_s % pixels)[None, :]
    a = tl.load(coefficients_ptr + channels + offs_c, mask=c_mask, other=0.0)[:, None]
    g_tile = tl.load(g_ptr + (offs_c * g_c)[:, None] + n * g_n + i * g_i, mask=mask, other=0.0).to(a.dtype)
    gx_tile = a * g_tile
    if TRAINING:
        center = tl.load(coefficients_ptr + offs_c, mask=c_mask, other=0.0)[:, None]
        b = tl.load(coefficients_ptr + 2 * channels + offs_c, mask=c_mask, other=0.0)[:, None]
        c = tl.load(coefficients_ptr + 3 * channels + offs_c, mask=c_mask, other=0.0)[:, None]
        x_tile = tl.load(x_ptr + (offs_c * x_c)[:, None] + n * x_n + i * x_i, mask=mask, other=0.0).to(a.dtype)
        gx_tile += b * (x_tile - center) + c
    tl.store(gx_ptr + (offs_c * gx_c)[:, None] + n * gx_n + i * gx_i, gx_tile.to(gx_ptr.dtype.element_ty), mask=mask)


BACKWARD_SUMS = Kernel(batch_norm_backward_sums_kernel, TILES, cost=tile_cost, interpreted=tile_interpreted)
BACKWARD_COEFFICIENTS = Kernel(batch_norm_backward_coefficients_kernel, CHANNELS)
BACKWARD_APPLY = Kernel(batch_norm_backward_apply_kernel, TILES, cost=tile_cost, interpreted=tile_interpreted)
