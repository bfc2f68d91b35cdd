// corr2d, "Dive into Deep Learning" section 7.2.   y[p, q] = Σ_{r,s} x[p + r, q + s] · kernel[r, s]
// Layout: x [h, w], kernel [r, s], y [p, q], dense, row by row.
#pragma once

#include <string>

#include "../common/corr2d_shape.h"
#include "../common/math.h"
#include "device/convert.cuh"
#include "device/launch.cuh"

namespace cnnext {

inline constexpr int kCorr2dThreads = 256;

// One thread for each output: neighbours read neighbouring pixels, and one and the same tap.
template <class T>
__global__ void __launch_bounds__(kCorr2dThreads)
    corr2d_forward_direct_kernel(Corr2dShape shape, const T* x, const T* kernel, T* y) {
  const int64_t output = int64_t{blockIdx.x} * kCorr2dThreads + threadIdx.x;
  if (output >= shape.p * shape.q) return;
  const int64_t p = output / shape.q, q = output % shape.q;
  compute_t<T> sum = 0;
  for (int64_t r = 0; r < shape.r; ++r) {
    compute_t<T> row_sum = 0;  // added up by rows: the error grows with r + s, not with r · s
    for (int64_t s = 0; s < shape.s; ++s) {
      row_sum +=
          device::to_compute(x[(p + r) * shape.w + q + s]) * device::to_compute(kernel[r * shape.s + s]);
    }
    sum += row_sum;
  }
  y[output] = device::from_compute<T>(sum);
}

// grad_x[h, w] = Σ_{r,s} grad[h − r, w − s] · kernel[r, s] over the taps that fall inside: gathered, so that
// every value is written once and the order of the sum is fixed.
template <class T>
__global__ void __launch_bounds__(kCorr2dThreads)
    corr2d_backward_input_direct_kernel(Corr2dShape shape, const T* grad, const T* kernel, T* grad_x) {
  const int64_t pixel = int64_t{blockIdx.x} * kCorr2dThreads + threadIdx.x;
  if (pixel >= shape.h * shape.w) return;
  const int64_t h = pixel / shape.w, w = pixel % shape.w;
  const int64_t r_first = larger<int64_t>(0, h - shape.p + 1), r_last = smaller(shape.r - 1, h);
  const int64_t s_first = larger<int64_t>(0, w - shape.q + 1), s_last = smaller(shape.s - 1, w);
  compute_t<T> sum = 0;
  for (int64_t r = r_first; r <= r_last; ++r) {
    for (int64_t s = s_first; s <= s_last; ++s) {
      sum +=
          device::to_compute(grad[(h - r) * shape.q + w - s]) * device::to_compute(kernel[r * shape.s + s]);
    }
  }
  grad_x[pixel] = device::from_compute<T>(sum);
}

inline std::string describe(const Corr2dShape& shape) {
  return "input [" + std::to_string(shape.h) + ", " + std::to_string(shape.w) + "], kernel [" +
         std::to_string(shape.r) + ", " + std::to_string(shape.s) + "]";
}

inline double flops(const Corr2dShape& shape) {
  return 2.0 * static_cast<double>(shape.p * shape.q) * static_cast<double>(shape.r * shape.s);
}

inline unsigned corr2d_blocks(int64_t outputs) {
  return static_cast<unsigned>(ceil_div<int64_t>(outputs, kCorr2dThreads));
}

template <class T>
void launch_corr2d_forward(const Corr2dShape& shape, const T* x, const T* kernel, T* y, cudaStream_t stream) {
  using namespace device;
  launch(
      {"corr2d_forward_direct_kernel", dim3(corr2d_blocks(shape.p * shape.q)), dim3(kCorr2dThreads), 0,
       stream, flops(shape)},
      {input("input", x, shape.h * shape.w), input("kernel", kernel, shape.r * shape.s),
       output("output", y, shape.p * shape.q)},
      [&] { return describe(shape); }, corr2d_forward_direct_kernel<T>, shape, x, kernel, y);
}

template <class T>
void launch_corr2d_backward_input(const Corr2dShape& shape, const T* grad, const T* kernel, T* grad_x,
                                  cudaStream_t stream) {
  using namespace device;
  launch(
      {"corr2d_backward_input_direct_kernel", dim3(corr2d_blocks(shape.h * shape.w)), dim3(kCorr2dThreads), 0,
       stream, flops(shape)},
      {input("grad", grad, shape.p * shape.q), input("kernel", kernel, shape.r * shape.s),
       output("grad_input", grad_x, shape.h * shape.w)},
      [&] { return describe(shape); }, corr2d_backward_input_direct_kernel<T>, shape, grad, kernel, grad_x);
}

}  // namespace cnnext
