# mypy: ignore-errors
"""batch_norm, forward (Ioffe and Szegedy 2015).      y = (x − mean) / sqrt(var + eps) · weight + bias, per channel

Layout: x is [image, channel, pixel] (a channels_last batch is one image), dense; y and residual likewise; a tile is
BLOCK_C channels × BLOCK_S samples (image, pixel).
Statistics, one pass over memory: values are taken relative to one of their tile, then to their mean, which is exact or
nearly so in their own type, and added in float64, tiles and shares of the samples merged by Chan, Golub and LeVeque
(1983): partial is [SPLITS][Σx, Σ(x − mean)²][C]. One value that dwarfs the others, or a mean a million times the
deviation, cost no digit so. Where float64 is slow (consumer GPUs) it is what the pass takes its time for.
Then a small kernel makes of them what each value needs, y = (x − center) · scale + offset, where center is the mean
rounded, what the rounding took off is in offset, and scale is a value and its rest. No atomics: the same bits always.
Limit: (x − mean)² must not overflow.
"""

import triton
import triton.language as tl

from cnnext.triton.launch import Kernel, block


@triton.jit
def batch_norm_moments_kernel(
    x_ptr, partial_ptr,
    samples, samples_each, pixels, channels, step_n, step_c, step_i,
    WIDE: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Σx and Σ(x − mean)² of BLOCK_C channels over one share of the samples."""
    block, split = tl.program_id(0), tl.program_id(1)
    if WIDE:
        block, split = block.to(tl.int64), split.to(tl.int64)
    offs_c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = offs_c < channels
    begin = split * samples_each
    end = tl.minimum(begin + samples_each, samples)
    wide: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    total, square = tl.zeros((BLOCK_C,), tl.float64), tl.zeros((BLOCK_C,), tl.float64)
    for start in range(begin, end, BLOCK_S):
        offs_s = start + tl.arange(0, BLOCK_S)
        mask = c_mask[:, None] & (offs_s < end)[None, :]
        offs = (offs_c * step_c)[:, None] + (offs_s // pixels * step_n + offs_s % pixels * step_i)[None, :]
        x_tile = tl.load(x_ptr + offs, mask=mask, other=0.0).to(wide)
        first = start // pixels * step_n + start % pixels * step_i
        shift = tl.load(x_ptr + offs_c * step_c + first, mask=c_mask, other=0.0).to(wide)
        shift = tl.where(shift - shift == 0.0, shift, 0.0)  # ∞ − ∞ would make a NaN of an infinite mean
        apart = tl.where(mask, x_tile - shift[:, None], 0.0)
        n, before = tl.minimum(end - start, BLOCK_S).to(tl.float64), (start - begin).to(tl.float64)
        tile_sum = tl.sum(apart.to(tl.float64), axis=1)
        apart = tl.where(mask, apart - (tile_sum / n).to(wide)[:, None], 0.0).to(tl.float64)
        tile_square = tl.sum(apart * apart, axis=1)
        tile_sum += shift.to(tl.float64) * n
        distance = tile_sum / n - total / tl.maximum(before, 1.0)
        square += tile_square + distance * distance * (before * n / (before + n))
        total += tile_sum
    row_ptr = partial_ptr + 2 * split * channels + offs_c
    tl.store(row_ptr, total, mask=c_mask)
    tl.store(row_ptr + channels, square, mask=c_mask)


@triton.jit
def batch_norm_coefficients_kernel(
    partial_ptr, weight_ptr, bias_ptr, mean_ptr, var_ptr, coefficients_ptr,
    samples, samples_each, splits, channels, eps_bits,
    TRAINING: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """coefficients [center, scale, its rest, offset][C]; in training, of the merged moments, which are written."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < channels
    wide: tl.constexpr = coefficients_ptr.dtype.element_ty
    if TRAINING:
        total, square = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
        for split in range(splits):
            row_ptr = partial_ptr + 2 * split * channels + offs
            part, part_square = (
                tl.load(row_ptr, mask=mask, other=0.0),
                tl.load(row_ptr + channels, mask=mask, other=0.0),
            )
            before = (split * samples_each).to(tl.float64)
            n = tl.minimum(samples - split * samples_each, samples_each).to(tl.float64)
            distance = part / n - total / tl.maximum(before, 1.0)
            square += part_square + distance * distance * (before * n / (before + n))
            total += part
        mean, var = total / samples.to(tl.float64), square / samples.to(tl.float64)
        tl.store(mean_ptr + offs, mean.to(wide), mask=mask)
        tl.store(var_ptr + offs, var.to(wide), mask=mask)
    else:
        mean = tl.load(mean_ptr + offs, mask=mask, other=0.0).to(tl.float64)
        var = tl.load(var_ptr + offs, mask=mask, other=1.0).to(tl.float64)
    eps = eps_bits.to(tl.int64).to(tl.float64, bitcast=True)
    scale = 1.0 / tl.sqrt(var + eps)
    if HAS_WEIGHT:
        scale = scale * tl.load(weight_ptr + offs, mask=mask, other=0.0).to(tl.float64)
    center = mean.to(wide)
    offset = (center.to(tl.float64) - mean) * scale
    if HAS_BIAS:
        offset = offset + tl.load(bias_ptr + offs, mask=mask, other=0.0).to(tl.float64)
    tl.store(coefficients_ptr + offs, center, mask=mask)
    rounded = scale.to(wide)
    tl.store(coefficients_ptr + channels + offs, rounded, mask=mask)
    tl.store(coefficients_ptr + 2 * channels + offs, (scale - rounded.to(tl.float64)).to(wide), mask=mask)
    tl.store(coefficients_ptr + 3 * channels + offs, offset.to(wide), mask=mask)


@triton.jit
def batch_norm_apply_kernel(
    x_ptr, coefficients_ptr, residual_ptr, y_ptr,
    samples, pixels, channels, step_n, step_c, step_i,
    HAS_RESIDUAL: tl.constexpr, RELU: tl.constexpr, WIDE: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """y = (x − center) · scale + offset, with the residual added, and no less than 0 if RELU."""
    block_s, block_c = tl.program_id(0), tl.program_id(1)
    if WIDE:
        block_s, block_c = block_s.to(tl.int64), block_c.to(tl.int64)
    offs_c = block_c * BLOCK_C + tl.arange(0, BLOCK_C)
    offs_s = block_s * BLOCK_S + tl.arange(0, BLOCK_S)
    c_mask = offs_c < channels
    mask = c_mask[:, None] & (offs_s < samples)[None, :]
    n, i = (offs_s // pixels)[None, :], (offs_s % pixels)[None, :]
    center = tl.load(coefficients_ptr + offs_c, mask=c_mask, other=0.0)[:, None]
    scale = tl.load(coefficients_ptr + channels + offs_c, mask=c_mask, other=0.0)[:, None]
    rest = tl.load(coefficients_ptr + 2 * channels + offs_c, mask=c_mask, other=0.0)[:, None]
    offset = tl.load(coefficients_ptr + 3 * channels + offs_c, mask=c_mask, other=0.0)[:, None]
    offs = (offs_c * step_c)[:, None] + n * step_n + i * step_i
    apart = tl.load(x_ptr + offs, mask=mask, other=0.0).to(center.dtype) - center
    y_tile = tl.fma(apart, scale, tl.fma(apart, rest, offset))
    if HAS_RESIDUAL:
        y_tile += tl.load(residual_ptr + offs, mask=mask, other=0.0).to(y_tile.dtype)
    if RELU:
        y_tile = tl.where(y_tile < 0.0, 0.0, y_tile)  # a NaN stays
    tl.store(y_ptr + offs, y_tile.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def batch_norm_update_kernel(
    running_mean_ptr, running_var_ptr, mean_ptr, var_ptr,
    channels, count, momentum_bits, running_mean_c, running_var_c,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """running = (1 − momentum) · running + momentum · batch, in float64; the variance is unbiased."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < channels
    momentum = momentum_bits.to(tl.int64).to(tl.float64, bitcast=True)
    mean = tl.load(mean_ptr + offs, mask=mask, other=0.0).to(tl.float64)
    n = count.to(tl.float64)
    var = tl.load(var_ptr + offs, mask=mask, other=0.0).to(tl.float64) * (n / (n - 1.0))
    running_mean_ptr += offs * running_mean_c
    running_var_ptr += offs * running_var_c
    running_mean = tl.load(running_mean_ptr, mask=mask, other=0.0).to(tl.float64)
    running_var = tl.load(running_var_ptr, mask=mask, other=0.0).to(tl.float64)
    running_mean += momentum * (mean - running_mean)
    running_var += momentum * (var - running_var)
    tl.store(running_mean_ptr, running_mean.to(running_mean_ptr.dtype.element_ty), mask=mask)
    tl.store(running_var_ptr, running_var.to(running_var_ptr.dtype.element_ty), mask=mask)


def _tile(block_c, block_s, warps=4):
    return triton.Config({"BLOCK_C": block_c, "BLOCK_S": block_s}, num_warps=warps)


TILES = (_tile(1, 1024), _tile(8, 128), _tile(32, 32), _tile(64, 16, 8), _tile(64, 64, 8), _tile(4, 1024, 8))
CHANNELS = tuple(triton.Config({"BLOCK": block}, num_warps=1) for block in (32, 128))


def tile_cost(config, target, hints):
    """Least for the tile that lies as the memory does. Hints: (channels, 1 if they are the fastest else 0, samples)."""
    channels, last, _ = hints
    return abs(config.kwargs["BLOCK_C"] - (min(channels, 64) if last else 1)) + config.kwargs["BLOCK_S"] / 4096


def tile_interpreted(kind, hints):
    """Blocks for the interpreter."""
    channels, _, samples = hints
    c = block(channels, 64)
    return {"BLOCK_C": c, "BLOCK_S": block(samples, 2**17 // c)}


MOMENTS = Kernel(batch_norm_moments_kernel, TILES, cost=tile_cost, interpreted=tile_interpreted)
COEFFICIENTS = Kernel(batch_norm_coefficients_kernel, CHANNELS)
APPLY = Kernel(batch_norm_apply_kernel, TILES, cost=tile_cost, interpreted=tile_interpreted)
UPDATE = Kernel(batch_norm_update_kernel, CHANNELS, repeatable=False)
