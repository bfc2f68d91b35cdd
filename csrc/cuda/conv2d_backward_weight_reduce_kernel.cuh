// The end of every weight gradient: the sums of the splits added up, in their order, and put into their
// place.
//   grad_weight[k, c, r, s] = Σ_split partial[split][k, c, r, s]  or  partial[split][k, r, s, c]
//   grad_bias[k]            = Σ_split partial_bias[split][k]
// Idea: a block takes channels whose taps are one run of grad_weight, and all of their taps. It reads them
// in the order of the partial sums, turns them around in shared memory and writes the run, so that
// neighbours read and write side by side. It runs whatever the number of splits, for it rounds to the dtype.
// Limits: the taps of one channel that do not fit into shared memory are written as they are read.
#pragma once

#include "conv2d_backward_weight_sum.cuh"
#include "conv2d_request.h"
#include "device/convert.cuh"
#include "device/launch.cuh"
#include "device/shared_memory.cuh"

namespace cnnext {

inline constexpr int kReduceThreads = 256, kReduceValues = 512;

// Partial sums [split][row][taps][channels], results [row][channels][taps].
struct WeightReduceProblem {
  int64_t rows, channels, taps;
  int splits;
  int64_t tile_rows, tile_channels;  // several rows only with all of their channels

  CNNEXT_HOST_DEVICE int64_t channel_tiles() const { return ceil_div(channels, tile_channels); }
  CNNEXT_HOST_DEVICE int64_t tiles() const { return ceil_div(rows, tile_rows) * channel_tiles(); }
};

// Partial sums in the order of the results count as those of one tap.
inline WeightReduceProblem weight_reduce_problem(const Conv2dShape& shape, int splits, bool channels_last) {
  const int64_t taps = channels_last ? shape.r * shape.s : 1, channels = shape.gemm_k() / taps;
  int64_t tile_channels = smaller(channels, larger<int64_t>(1, kReduceValues / taps));
  if (tile_channels < channels && tile_channels > 16)
    tile_channels = tile_channels / 16 * 16;  // whole sectors
  const int64_t tile_rows =
      tile_channels == channels ? larger<int64_t>(1, kReduceValues / shape.gemm_k()) : 1;
  return {shape.k, channels, taps, splits, tile_rows, tile_channels};
}

template <class T>
struct WeightReduceShared {
  T run[kReduceValues];
};

template <class T>
CNNEXT_DEVICE T sum_of_splits(const compute_t<T>* values, int splits, int64_t step) {
  CarriedSum<compute_t<T>> sum;
  for (int split = 0; split < splits; ++split) sum.add(values[split * step]);
  return device::from_compute<T>(sum.total());
}

template <class T>
CNNEXT_DEVICE void reduce_tile(const WeightReduceProblem& problem, const compute_t<T>* partial,
                               T* grad_weight) {
  auto& shared = device::static_shared<WeightReduceShared<T>>();
  const int64_t tiles = problem.channel_tiles(), row_size = problem.channels * problem.taps;
  const int64_t row = blockIdx.x / tiles * problem.tile_rows, c = blockIdx.x % tiles * problem.tile_channels;
  const int rows = static_cast<int>(smaller(problem.tile_rows, problem.rows - row));
  const int width = static_cast<int>(smaller(problem.tile_channels, problem.channels - c));
  const int taps = static_cast<int>(problem.taps), count = rows * taps * width;
  const bool fits = count <= kReduceValues;
  T* const run = grad_weight + row * row_size + c * problem.taps;
  T* const to = fits ? shared.run : run;
  for (int i = threadIdx.x; i < count; i += kReduceThreads) {
    const int channel = i % width, tap = i / width % taps, in_row = i / (width * taps);
    const int64_t from = (row + in_row) * row_size + tap * problem.channels + c + channel;
    to[(in_row * width + channel) * taps + tap] =
        sum_of_splits<T>(partial + from, problem.splits, problem.rows * row_size);
  }
  if (fits) {
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += kReduceThreads) run[i] = shared.run[i];
  }
}

// Blocks: the tiles, then the biases.
template <class T>
__global__ void __launch_bounds__(kReduceThreads)
    conv2d_backward_weight_reduce_kernel(const WeightReduceProblem problem, const compute_t<T>* partial,
                                         const compute_t<T>* partial_bias, T* grad_weight, T* grad_bias) {
  if (blockIdx.x < problem.tiles()) {
    reduce_tile(problem, partial, grad_weight);
  } else {
    const int64_t k = (blockIdx.x - problem.tiles()) * kReduceThreads + threadIdx.x;
    if (k < problem.rows) grad_bias[k] = sum_of_splits<T>(partial_bias + k, problem.splits, problem.rows);
  }
}

template <class T>
void launch_weight_reduce(const Conv2dShape& shape, int splits, bool channels_last,
                          const compute_t<T>* partial, const compute_t<T>* partial_bias, T* grad_weight,
                          T* grad_bias, cudaStream_t stream) {
  const WeightReduceProblem problem = weight_reduce_problem(shape, splits, channels_last);
  const int64_t weights = shape.k * shape.gemm_k();
  const int64_t blocks = problem.tiles() + ceil_div<int64_t>(shape.k, kReduceThreads);
  device::launch(
      {"conv2d_backward_weight_reduce_kernel", dim3(static_cast<unsigned>(blocks)), dim3(kReduceThreads), 0,
       stream, static_cast<double>(weights) * splits},
      {device::input("partial", partial, splits * weights),
       device::input("partial_bias", partial_bias, splits * shape.k),
       device::output("grad_weight", grad_weight, weights), device::output("grad_bias", grad_bias, shape.k)},
      [&] { return conv2d_text(shape); }, conv2d_backward_weight_reduce_kernel<T>, problem, partial,
      partial_bias, grad_weight, grad_bias);
}

}  // namespace cnnext
