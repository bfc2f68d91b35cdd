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
    bias_ptr, residual_ptr, shift_ptr, sums_ptr, sums_row, channels,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, RELU: tl.constexpr, STATISTICS: tl.constexpr,
):  # fmt: skip
    """The epilogue: v = acc + bias[k] + residual, v = max(v, 0), y = v rounded; a step that is off costs nothing.

    STATISTICS writes Σ (y − shift[k]) and Σ (y − shift[k])² of the tile's pixels to row ``sums_row`` of
    sums [tiles][2][channels]: of the rounded value, which is what a batch norm behind the convolution would read.
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
        shift = tl.load(shift_ptr + offs_k, mask=k_mask, other=0.0)[None, :]
        apart = tl.where(mask, y.to(acc.dtype) - shift, 0.0)
        row_ptr = sums_ptr + 2 * sums_row * channels + offs_k
        tl.store(row_ptr, tl.sum(apart, axis=0), mask=k_mask)
        tl.store(row_ptr + channels, tl.sum(apart * apart, axis=0), mask=k_mask)
