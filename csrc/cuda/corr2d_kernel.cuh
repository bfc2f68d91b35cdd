// corr2d, "Dive into Deep Learning" section 7.2, and with padding and a turned kernel its input gradient:
//   y[p, q] = Σ_{r,s} x[p − pad_h + r, q − pad_w + s] · kernel[r, s] over the taps inside x
// Layout: x [h, w], kernel [r, s], y [p, q], dense, row by row. All sums have a fixed order.
//
// direct     one thread for each output: neighbours read neighbouring pixels and one and the same tap
// tiled      a block's pixels and the kernel in shared memory; a thread has four outputs below one another,
// and
//            keeps the pixels under them in registers while the taps of a column pass
// split_sum  for few outputs with long sums (the kernel gradient): a block for each output and stretch of
// rows
//            of the kernel, and a second launch that adds up the stretches
#pragma once

#include "corr2d_choose.h"
#include "device/block_reduce.cuh"
#include "device/convert.cuh"
#include "device/shared_memory.cuh"

namespace cnnext::correlation {

using device::from_compute;
using device::to_compute;

template <class T>
CNNEXT_DEVICE compute_t<T> tap(const Correlation& shape, const T* kernel, int64_t r, int64_t s) {
  return to_compute(shape.turned ? kernel[(shape.r - 1 - r) * shape.s + shape.s - 1 - s]
                                 : kernel[r * shape.s + s]);
}

template <class T>
__global__ void __launch_bounds__(kCorr2dThreads)
    corr2d_direct_kernel(const Correlation shape, const T* x, const T* kernel, T* y) {
  const int64_t output = int64_t{blockIdx.x} * kCorr2dThreads + threadIdx.x;
  if (output >= shape.p * shape.q) return;
  const int64_t h = output / shape.q - shape.pad_h, w = output % shape.q - shape.pad_w;  // of tap (0, 0)
  const int64_t r_begin = larger<int64_t>(0, -h), r_end = smaller(shape.r, shape.h - h);
  const int64_t s_begin = larger<int64_t>(0, -w), s_end = smaller(shape.s, shape.w - w);
  compute_t<T> sum = 0;
  for (int64_t r = r_begin; r < r_end; ++r) {
    compute_t<T> row_sum = 0;  // added up by rows: the error grows with r + s, not with r · s
    for (int64_t s = s_begin; s < s_end; ++s) {
      row_sum += to_compute(x[(h + r) * shape.w + w + s]) * tap(shape, kernel, r, s);
    }
    sum += row_sum;
  }
  y[output] = from_compute<T>(sum);
}

inline constexpr int kOutputs = 4;  // of a thread, below one another
static_assert(kCorr2dTileP * kCorr2dTileQ == kCorr2dThreads * kOutputs, "a tile is a block's outputs");
static_assert(kCorr2dTileQ == device::kWarpSize, "a warp is a row, so that its reads hit different banks");

// What the threads of a block share: pixels[tile_h][tile_w], then taps[r][s].
template <class C>
struct Tile {
  C* pixels;
  C* taps;
  int height, width;
};

// Outside x lie zeros.
template <class T>
CNNEXT_DEVICE Tile<compute_t<T>> load_tile(const Correlation& shape, const T* x, const T* kernel, int64_t h,
                                           int64_t w) {
  using C = compute_t<T>;
  const int height = kCorr2dTileP - 1 + static_cast<int>(shape.r);
  const int width = kCorr2dTileQ - 1 + static_cast<int>(shape.s), thread = static_cast<int>(threadIdx.x);
  C* pixels = &device::dynamic_shared<C>();
  const Tile<C> tile{pixels, pixels + height * width, height, width};
  for (int row = thread / device::kWarpSize; row < height; row += kCorr2dThreads / device::kWarpSize) {
    const bool row_inside = h + row >= 0 && h + row < shape.h;
    for (int column = thread % device::kWarpSize; column < width; column += device::kWarpSize) {
      const bool inside = row_inside && w + column >= 0 && w + column < shape.w;
      pixels[row * width + column] = inside ? to_compute(x[(h + row) * shape.w + w + column]) : C(0);
    }
  }
  const int s_count = static_cast<int>(shape.s), taps = static_cast<int>(shape.r) * s_count;
  for (int i = thread; i < taps; i += kCorr2dThreads)
    tile.taps[i] = tap(shape, kernel, i / s_count, i % s_count);
  __syncthreads();
  return tile;
}

// The four sums, by columns of taps. kGuarded: part of the tile lies outside x, and there a tap takes no
// part, for an infinite tap times the zero of the tile would not be a number. inside: the first and last row,
// the first and last column of the tile that lie in x, the last ones not included.
template <bool kGuarded, class C>
CNNEXT_DEVICE void add_taps(const Tile<C>& tile, int r_count, int s_count, int row, int column,
                            const int (&inside)[4], C (&sum)[kOutputs]) {
  for (int s = 0; s < s_count; ++s) {
    if (kGuarded && (column + s < inside[2] || column + s >= inside[3])) continue;
    const C* pixel = tile.pixels + row * tile.width + column + s;
    C window[kOutputs] = {C(0), pixel[0], pixel[tile.width], pixel[2 * tile.width]},
      column_sum[kOutputs] = {};
#pragma unroll 4
    for (int r = 0; r < r_count; ++r) {
      const C k = tile.taps[r * s_count + s];
#pragma unroll
      for (int i = 0; i < kOutputs - 1; ++i) window[i] = window[i + 1];
      window[kOutputs - 1] = pixel[(r + kOutputs - 1) * tile.width];
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) {
        const bool counts = !kGuarded || (row + r + i >= inside[0] && row + r + i < inside[1]);
        column_sum[i] += counts ? window[i] * k : C(0);
      }
    }
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) sum[i] += column_sum[i];
  }
}

// Grid: x the tiles, row by row. Four blocks leave each thread 64 registers, which float64 takes.
template <class T>
__global__ void __launch_bounds__(kCorr2dThreads, 4)
    corr2d_tiled_kernel(const Correlation shape, const T* x, const T* kernel, T* y) {
  using C = compute_t<T>;
  const int64_t tiles_q = ceil_div<int64_t>(shape.q, kCorr2dTileQ);
  const int64_t tile_p = blockIdx.x / tiles_q * kCorr2dTileP, tile_q = blockIdx.x % tiles_q * kCorr2dTileQ;
  const int64_t h = tile_p - shape.pad_h, w = tile_q - shape.pad_w;  // of the tile's first pixel
  const Tile<C> tile = load_tile(shape, x, kernel, h, w);
  const int row = static_cast<int>(threadIdx.x) / device::kWarpSize * kOutputs;
  const int column = static_cast<int>(threadIdx.x) % device::kWarpSize;
  const int inside[4] = {
      static_cast<int>(larger<int64_t>(0, -h)), static_cast<int>(smaller<int64_t>(tile.height, shape.h - h)),
      static_cast<int>(larger<int64_t>(0, -w)), static_cast<int>(smaller<int64_t>(tile.width, shape.w - w))};
  const bool whole = inside[0] == 0 && inside[1] == tile.height && inside[2] == 0 && inside[3] == tile.width;
  const int r_count = static_cast<int>(shape.r), s_count = static_cast<int>(shape.s);
  C sum[kOutputs] = {};
  if (whole) {
    add_taps<false>(tile, r_count, s_count, row, column, inside, sum);
  } else {
    add_taps<true>(tile, r_count, s_count, row, column, inside, sum);
  }
#pragma unroll
  for (int i = 0; i < kOutputs; ++i) {
    const int64_t p = tile_p + row + i, q = tile_q + column;
    if (p < shape.p && q < shape.q) y[p * shape.q + q] = from_compute<T>(sum[i]);
  }
}

// partial[split, output] = the sum over rows [split · rows_per_split, …) of the kernel. A warp takes a row.
// Grid: x the outputs, y the splits.
template <class T>
__global__ void __launch_bounds__(kCorr2dThreads)
    corr2d_split_sum_kernel(const Correlation shape, int64_t rows_per_split, const T* x, const T* kernel,
                            compute_t<T>* partial) {
  using C = compute_t<T>;
  auto& storage = device::static_shared<device::BlockReduceStorage<C, kCorr2dThreads>>();
  const int64_t output = blockIdx.x, begin = int64_t{blockIdx.y} * rows_per_split;
  const int64_t end = smaller(shape.r, begin + rows_per_split);
  const T* pixels = x + output / shape.q * shape.w + output % shape.q;
  C sum = 0;
  for (int64_t r = begin + threadIdx.x / device::kWarpSize; r < end;
       r += kCorr2dThreads / device::kWarpSize) {
    for (int64_t s = threadIdx.x % device::kWarpSize; s < shape.s; s += device::kWarpSize) {
      sum += to_compute(pixels[r * shape.w + s]) * to_compute(kernel[r * shape.s + s]);
    }
  }
  sum = device::block_sum<kCorr2dThreads>(sum, storage);
  if (threadIdx.x == 0) partial[blockIdx.y * shape.p * shape.q + output] = sum;
}

// y[output] = Σ_split partial[split, output], in float64: there may be thousands of splits.
template <class T>
__global__ void __launch_bounds__(kCorr2dThreads)
    corr2d_split_sum_reduce_kernel(int64_t outputs, int64_t splits, const compute_t<T>* partial, T* y) {
  const int64_t output = int64_t{blockIdx.x} * kCorr2dThreads + threadIdx.x;
  if (output >= outputs) return;
  double sum = 0;
  for (int64_t split = 0; split < splits; ++split)
    sum += static_cast<double>(partial[split * outputs + output]);
  y[output] = from_compute<T>(static_cast<compute_t<T>>(sum));
}

}  // namespace cnnext::correlation
