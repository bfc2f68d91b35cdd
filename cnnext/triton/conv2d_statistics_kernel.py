# mypy: ignore-errors
"""conv2d, statistics of the output.      mean[k] = Σ y / M and var[k] = Σ (y − mean)² / M, over the M pixels of k

Layout: moments [tile][n, mean of the tile, Σ (y − mean of the tile), Σ (y − mean of the tile)²][K], as the epilogue of
the convolution leaves them, whose mean is rounded; rows holds how many tiles there are, which depends on the config.
Idea: a first walk over the tiles gives the mean, a second adds Σ (y − mean)², each tile's by its own mean and how far
that is from the other (Chan, Golub and LeVeque 1983), in float64: nothing cancels. The order is the same every time.
"""

import triton
import triton.language as tl

from cnnext.triton.launch import Kernel


@triton.jit
def moments_of(row_ptr, channels, mask):
    """n (1 where there is no tile), mean and rest of tiles, in float64."""
    n = tl.load(row_ptr, mask=mask, other=1.0).to(tl.float64)
    tile_mean = tl.load(row_ptr + channels, mask=mask, other=0.0).to(tl.float64)
    rest = tl.load(row_ptr + 2 * channels, mask=mask, other=0.0).to(tl.float64)
    return n, tile_mean, rest


@triton.jit
def conv2d_statistics_kernel(
    moments_ptr, rows_ptr, mean_ptr, var_ptr, channels,
    WIDE: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """mean and var of BLOCK_C channels."""
    offs_c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = offs_c < channels
    rows = tl.load(rows_ptr)
    count, total = tl.zeros((BLOCK_C,), tl.float64), tl.zeros((BLOCK_C,), tl.float64)
    for start in range(0, rows, BLOCK_T):
        offs_t = start + tl.arange(0, BLOCK_T)
        mask = (offs_t < rows)[:, None] & c_mask[None, :]
        if WIDE:
            offs_t = offs_t.to(tl.int64)
        row_ptr = moments_ptr + (4 * offs_t * channels)[:, None] + offs_c[None, :]
        n, tile_mean, rest = moments_of(row_ptr, channels, mask)
        count += tl.sum(tl.where(mask, n, 0.0), axis=0)
        total += tl.sum(n * tile_mean + rest, axis=0)
    count = tl.maximum(count, 1.0)
    mean = total / count
    square = tl.zeros((BLOCK_C,), tl.float64)
    for start in range(0, rows, BLOCK_T):
        offs_t = start + tl.arange(0, BLOCK_T)
        mask = (offs_t < rows)[:, None] & c_mask[None, :]
        if WIDE:
            offs_t = offs_t.to(tl.int64)
        row_ptr = moments_ptr + (4 * offs_t * channels)[:, None] + offs_c[None, :]
        n, tile_mean, rest = moments_of(row_ptr, channels, mask)
        tile_square = tl.load(row_ptr + 3 * channels, mask=mask, other=0.0).to(tl.float64)
        apart = tile_mean - mean[None, :]  # Σ (y − mean)² = Σ ((y − tile_mean) + apart)²
        part = tile_square + apart * (2.0 * rest + n * apart)
        square += tl.sum(tl.where(mask, part, 0.0), axis=0)
    tl.store(mean_ptr + offs_c, mean.to(mean_ptr.dtype.element_ty), mask=c_mask)
    tl.store(var_ptr + offs_c, (square / count).to(var_ptr.dtype.element_ty), mask=c_mask)


def _tile(block_t, block_c):
    return triton.Config({"BLOCK_T": block_t, "BLOCK_C": block_c}, num_warps=4)


STATISTICS = Kernel(conv2d_statistics_kernel, (_tile(64, 8), _tile(32, 32)))
