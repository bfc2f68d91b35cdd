// The launches of corr2d's kernels.
#pragma once

#include <string>

#include "corr2d_kernel.cuh"
#include "device/launch.cuh"

namespace cnnext {

inline std::string describe(const Correlation& shape) {
  return "input [" + std::to_string(shape.h) + ", " + std::to_string(shape.w) + "], kernel [" +
         std::to_string(shape.r) + ", " + std::to_string(shape.s) + "], output [" + std::to_string(shape.p) +
         ", " + std::to_string(shape.q) + "]";
}

// The terms inside x: of p · q outputs and r · s taps for a correlation, of h · w pixels for its gradient.
inline double flops(const Correlation& shape) {
  const int64_t places = shape.turned ? shape.h * shape.w : shape.p * shape.q;
  return 2.0 * static_cast<double>(places) * static_cast<double>(shape.r * shape.s);
}

inline dim3 corr2d_blocks(int64_t outputs) {
  return dim3(static_cast<unsigned>(ceil_div<int64_t>(outputs, kCorr2dThreads)));
}

template <class T>
void launch_corr2d_direct(const Correlation& shape, const T* x, const T* kernel, T* y, cudaStream_t stream) {
  using namespace device;
  launch(
      {"corr2d_direct_kernel", corr2d_blocks(shape.p * shape.q), dim3(kCorr2dThreads), 0, stream,
       flops(shape)},
      {input("input", x, shape.h * shape.w), input("kernel", kernel, shape.r * shape.s),
       output("output", y, shape.p * shape.q)},
      [&] { return describe(shape); }, correlation::corr2d_direct_kernel<T>, shape, x, kernel, y);
}

template <class T>
void launch_corr2d_tiled(const Correlation& shape, const T* x, const T* kernel, T* y, cudaStream_t stream) {
  using namespace device;
  const int64_t tiles = ceil_div<int64_t>(shape.p, kCorr2dTileP) * ceil_div<int64_t>(shape.q, kCorr2dTileQ);
  const auto shared_bytes = static_cast<size_t>(corr2d_tile_bytes(shape, sizeof(compute_t<T>)));
  launch(
      {"corr2d_tiled_kernel", dim3(static_cast<unsigned>(tiles)), dim3(kCorr2dThreads), shared_bytes, stream,
       flops(shape)},
      {input("input", x, shape.h * shape.w), input("kernel", kernel, shape.r * shape.s),
       output("output", y, shape.p * shape.q)},
      [&] { return describe(shape); }, correlation::corr2d_tiled_kernel<T>, shape, x, kernel, y);
}

// `partial` has room for splits · p · q values.
template <class T>
void launch_corr2d_split_sum(const Correlation& shape, const Corr2dChoice& choice, const T* x,
                             const T* kernel, compute_t<T>* partial, T* y, cudaStream_t stream) {
  using namespace device;
  const int64_t outputs = shape.p * shape.q, partials = outputs * choice.splits;
  const dim3 grid(static_cast<unsigned>(outputs), static_cast<unsigned>(choice.splits));
  launch(
      {"corr2d_split_sum_kernel", grid, dim3(kCorr2dThreads), 0, stream, flops(shape)},
      {input("input", x, shape.h * shape.w), input("kernel", kernel, shape.r * shape.s),
       output("partial", partial, partials)},
      [&] { return describe(shape); }, correlation::corr2d_split_sum_kernel<T>, shape, choice.rows_per_split,
      x, kernel, partial);
  launch(
      {"corr2d_split_sum_reduce_kernel", corr2d_blocks(outputs), dim3(kCorr2dThreads), 0, stream,
       static_cast<double>(partials)},
      {input("partial", partial, partials), output("output", y, outputs)}, [&] { return describe(shape); },
      correlation::corr2d_split_sum_reduce_kernel<T>, outputs, choice.splits, partial, y);
}

}  // namespace cnnext
