# mypy: ignore-errors
"""What the convolution kernels share: the order of tiles, and what happens to an accumulator on its way out.

Letters as in csrc/common/conv2d_shape.h: n c h w input, k output channel, r s tap, p q output pixel. Of the implicit
GEMM of a group, gemm_m = n·p·q, gemm_n = k, gemm_k = c·r·s; a kernel's sizes count one group.
"""

import triton
import triton.language as tl


@triton.jit
def tile_of_program(program, tiles_m, tiles_n, ROWS: tl.constexpr):
    """(block_m, block_n): ROWS rows of tiles are walked column by column, so that operands are met again in the L2."""
    band = ROWS * tiles_n
    first = program // band * ROWS
    rows = tl.minimum(tiles_m - first, ROWS)
    return first + program % band % rows, program % band // rows


@triton.jit
def store_output(
    acc, y_ptr, offs, mask, offs_k, k_mask,
    bias_ptr, residual_ptr, moments_ptr, rows_ptr, row, rows, count, channels,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, RELU: tl.constexpr, STATISTICS: tl.constexpr,
):  # fmt: skip
    """The epilogue: v = acc + bias[k] + residual, v = max(v, 0), y = v rounded; a step that is off costs nothing.

    STATISTICS writes count, mean, Σ (y − mean) and Σ (y − mean)² of the tile's ``count`` pixels to row ``row``, of
    ``rows``, of moments [rows][4][channels]: of the rounded value, which is what a norm behind the convolution would
    read. The third is what the rounding of the mean left. All in the type of acc, for a thread may hold every channel.
    """
    if HAS_BIAS:
        acc += tl.load(bias_ptr + offs_k, mask=k_mask, other=0.0).to(acc.dtype)[None, :]
    if HAS_RESIDUAL:
        acc += tl.load(residual_ptr + offs, mask=mask, other=0.0).to(acc.dtype)
    if RELU:
        acc = tl.where(acc < 0.0, 0.0, acc)  # a NaN stays
    y = acc.to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + offs, y, mask=mask)
    if STATISTICS:
        n = count.to(acc.dtype)
        value = tl.where(mask, y.to(acc.dtype), 0.0)
        mean = tl.sum(value, axis=0) / n
        mean = tl.where(mean - mean == 0.0, mean, 0.0)  # ∞ − ∞ would make a NaN of an infinite mean
        apart = tl.where(mask, value - mean[None, :], 0.0)
        row_ptr = moments_ptr + 4 * row * channels + offs_k
        tl.store(row_ptr, tl.where(k_mask, n, 0.0), mask=k_mask)
        tl.store(row_ptr + channels, mean, mask=k_mask)
        tl.store(row_ptr + 2 * channels, tl.sum(apart, axis=0), mask=k_mask)
        tl.store(row_ptr + 3 * channels, tl.sum(apart * apart, axis=0), mask=k_mask)
        tl.store(rows_ptr, rows)  # of every program the same
