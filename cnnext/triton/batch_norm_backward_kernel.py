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
def let_through(
    g_tile, x_ptr, output_ptr, norm_ptr, offs, mask, offs_c, c_mask, channels, GATE: tl.constexpr,
):  # fmt: skip
    """What a ReLU behind the norm lets through of ``g_tile``.

    GATE 0: everything, there is none. 1: where its output is not 0. 2: where its input is above 0, which is the
    normalised x, computed anew by the coefficients ``norm_ptr`` and rounded as the forward pass did. A NaN is open.
    """
    if GATE == 1:
        output = tl.load(output_ptr + offs, mask=mask, other=0.0).to(g_tile.dtype)
        g_tile = tl.where(output <= 0.0, 0.0, g_tile)
    if GATE == 2:
        center = tl.load(norm_ptr + offs_c, mask=c_mask, other=0.0)[:, None]
        scale = tl.load(norm_ptr + channels + offs_c, mask=c_mask, other=0.0)[:, None]
        rest = tl.load(norm_ptr + 2 * channels + offs_c, mask=c_mask, other=0.0)[:, None]
        offset = tl.load(norm_ptr + 3 * channels + offs_c, mask=c_mask, other=0.0)[:, None]
        apart = tl.load(x_ptr + offs, mask=mask, other=0.0).to(center.dtype) - center
        value = tl.fma(apart, scale, tl.fma(apart, rest, offset)).to(x_ptr.dtype.element_ty)
        g_tile = tl.where(value.to(center.dtype) <= 0.0, 0.0, g_tile)
    return g_tile


@triton.jit
def batch_norm_backward_sums_kernel(
    g_ptr, x_ptr, mean_ptr, output_ptr, norm_ptr, partial_ptr,
    samples, samples_each, pixels, channels, step_n, step_c, step_i,
    GATE: tl.constexpr, WIDE: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
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
        offs = (offs_c * step_c)[:, None] + (offs_s // pixels * step_n + offs_s % pixels * step_i)[None, :]
        g_tile = tl.load(g_ptr + offs, mask=mask, other=0.0).to(wide)
        g_tile = let_through(g_tile, x_ptr, output_ptr, norm_ptr, offs, mask, offs_c, c_mask, channels, GATE)
        x_tile = tl.load(x_ptr + offs, mask=mask, other=0.0).to(wide)
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
    g_ptr, x_ptr, coefficients_ptr, output_ptr, norm_ptr, gx_ptr, masked_ptr,
    samples, pixels, channels, step_n, step_c, step_i,
    TRAINING: tl.constexpr, GATE: tl.constexpr, HAS_MASKED: tl.constexpr,
    WIDE: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """grad_x = a·g + b·(x − center) + c, or a·g without training, of what the gate lets through of g: masked."""
    block_s, block_c = tl.program_id(0), tl.program_id(1)
    if WIDE:
        block_s, block_c = block_s.to(tl.int64), block_c.to(tl.int64)
    offs_c = block_c * BLOCK_C + tl.arange(0, BLOCK_C)
    offs_s = block_s * BLOCK_S + tl.arange(0, BLOCK_S)
    c_mask = offs_c < channels
    mask = c_mask[:, None] & (offs_s < samples)[None, :]
    offs = (offs_c * step_c)[:, None] + (offs_s // pixels * step_n + offs_s % pixels * step_i)[None, :]
    a = tl.load(coefficients_ptr + channels + offs_c, mask=c_mask, other=0.0)[:, None]
    g_tile = tl.load(g_ptr + offs, mask=mask, other=0.0).to(a.dtype)
    g_tile = let_through(g_tile, x_ptr, output_ptr, norm_ptr, offs, mask, offs_c, c_mask, channels, GATE)
    if HAS_MASKED:
        tl.store(masked_ptr + offs, g_tile.to(masked_ptr.dtype.element_ty), mask=mask)
    gx_tile = a * g_tile
    if TRAINING:
        center = tl.load(coefficients_ptr + offs_c, mask=c_mask, other=0.0)[:, None]
        b = tl.load(coefficients_ptr + 2 * channels + offs_c, mask=c_mask, other=0.0)[:, None]
        c = tl.load(coefficients_ptr + 3 * channels + offs_c, mask=c_mask, other=0.0)[:, None]
        x_tile = tl.load(x_ptr + offs, mask=mask, other=0.0).to(a.dtype)
        gx_tile += b * (x_tile - center) + c
    tl.store(gx_ptr + offs, gx_tile.to(gx_ptr.dtype.element_ty), mask=mask)


BACKWARD_SUMS = Kernel(batch_norm_backward_sums_kernel, TILES, cost=tile_cost, interpreted=tile_interpreted)
BACKWARD_COEFFICIENTS = Kernel(batch_norm_backward_coefficients_kernel, CHANNELS)
BACKWARD_APPLY = Kernel(batch_norm_backward_apply_kernel, TILES, cost=tile_cost, interpreted=tile_interpreted)
