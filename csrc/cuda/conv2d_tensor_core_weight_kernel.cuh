// conv2d on tensor cores, weight gradient, as an implicit GEMM:
//   grad_weight[m, n] = Σ_pixels grad[pixel, m] · x[pixel at tap, channel],   n = (tap, input channel)
// Layouts: NCHW or NHWC, any channels; sums in fp32 from fp16, bf16 or tf32 operands.
// Idea: pixels are many and weights few, so the pixels are divided among blocks (splits). Each writes its
// sums to a place of its own, and conv2d_backward_weight_reduce_kernel.cuh adds them in the order of the
// splits: the bits do not depend on when a block ran.
// Files: _load_weight (filling), _main_loop and _compute (multiplying), _bias_kernel (the bias gradient).
#pragma once

#include "conv2d_tensor_core_load_weight.cuh"
#include "conv2d_tensor_core_main_loop.cuh"
#include "device/shared_memory.cuh"

namespace cnnext::tensor_core {

template <class Config, class T>
struct WeightShared {
  alignas(128) char stages[Config::stages(kHasAsyncCopy) * Config::kStageBytes];
  WeightPixel pixels[3 * kThreads];  // see WeightPixels
};

// The sums of a tile as they lie in registers: four lanes fill a sector. `rows` and `columns` are left of the
// matrix, whose rows are `pitch` apart.
template <class Config>
CNNEXT_DEVICE void store_partial(const Accumulators<Config>& d, float* matrix, int rows, int columns,
                                 int pitch) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int first_row = warp / kWarpsN * Config::kWarpM + lane / 4;
  const int first_column = warp % kWarpsN * Config::kWarpN + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < Config::kWarpM / 16; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + i * 16 + half * 8;
      if (row >= rows) continue;
#pragma unroll
      for (int j = 0; j < Config::kWarpN / 8; ++j) {
        const int column = first_column + j * 8;
        float* to = matrix + int64_t{row} * pitch + column;
        const device::Vector<float, 2> pair{{d[i][j][2 * half], d[i][j][2 * half + 1]}};
        if (pitch % 2 == 0) {
          if (column < columns) device::store_vector(to, pair);
        } else {
          if (column < columns) to[0] = pair[0];
          if (column + 1 < columns) to[1] = pair[1];
        }
      }
    }
  }
}

// Block (tile of m and n, group, split).
template <class Config, class T, bool kVector>
__global__ void __launch_bounds__(kThreads, 2)
    conv2d_tensor_core_weight_kernel(const __grid_constant__ WeightArguments<T> args) {
  if constexpr (!kArchitectureHas<Config, T>) {
    __trap();  // no launcher chooses it there
  } else {
    using Loader = std::conditional_t<kVector, WeightVectorLoader<Config, T>, WeightGatherLoader<Config, T>>;
    auto& shared = device::dynamic_shared<WeightShared<Config, T>>();
    const int block_m = blockIdx.x / args.tiles_n, block_n = blockIdx.x - block_m * args.tiles_n;
    const int group = blockIdx.y, split = blockIdx.z;
    const int first_pixel = split * args.split_pixels;
    const int split_pixels = smaller(args.pixels - first_pixel, args.split_pixels);
    const int first_image = args.image_pixels.quotient(first_pixel);

    typename Loader::Pixels pixels(shared.pixels, args, first_pixel, first_image);
    Loader loader({args.grad + first_image * args.grad_strides.n +
                       static_cast<int64_t>(group) * args.group_k * args.grad_strides.c,
                   args.x + first_image * args.x_strides.n +
                       static_cast<int64_t>(group) * args.group_c * args.x_strides.c,
                   block_m * Config::kTileM, block_n * Config::kTileN},
                  args, pixels);
    __syncthreads();

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Accumulators<Config> d = {};
    const int steps = ceil_div(split_pixels, kTileK<Config, T>);
    if constexpr (kVector) {
      const KStridedReader<T, Operand::kA, Config::kTileM, Config::kWarpM> reader_a(warp / kWarpsN, lane);
      const KStridedReader<T, Operand::kB, Config::kTileN, Config::kWarpN> reader_b(warp % kWarpsN, lane);
      accumulate<Config, T, false>(d, loader, reader_a, reader_b, shared.stages, steps);
    } else {
      const KContiguousReader<Operand::kA, Config::kRowBytes, Config::kWarpM> reader_a(warp / kWarpsN, lane);
      const KContiguousReader<Operand::kB, Config::kRowBytes, Config::kWarpN> reader_b(warp % kWarpsN, lane);
      accumulate<Config, T, false>(d, loader, reader_a, reader_b, shared.stages, steps);
    }
    const int gemm_n = args.taps * args.group_c;
    const int first_m = block_m * Config::kTileM, first_n = block_n * Config::kTileN;
    const int64_t row = (int64_t{split} * gridDim.y + group) * args.group_k + first_m;
    store_partial<Config>(d, args.partial + row * gemm_n + first_n, args.group_k - first_m, gemm_n - first_n,
                          gemm_n);
  }
}

}  // namespace cnnext::tensor_core
