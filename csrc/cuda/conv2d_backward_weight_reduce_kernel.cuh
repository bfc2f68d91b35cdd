// The end of every weight gradient: the sums of the splits added up, in their order, and put into their
// place.
//   grad_weight[k, c, r, s] = Σ_split partial[split][k, c, r, s]  or  partial[split][k, r, s, c]
//   grad_bias[k]            = Σ_split partial_bias[split][k]
// Idea: a thread adds up one value, neighbours read side by side. It runs whatever the number of splits, for
// it rounds to the dtype and turns the order around too.
#pragma once

#include "conv2d_backward_weight_sum.cuh"
#include "conv2d_request.h"
#include "device/convert.cuh"
#include "device/launch.cuh"

namespace cnnext {

inline constexpr int kReduceThreads = 256;

struct WeightReduceProblem {
  int64_t k, group_c, taps;
  int splits;
  bool channels_last;  // of the partial sums
};

template <class T>
__global__ void __launch_bounds__(kReduceThreads)
    conv2d_backward_weight_reduce_kernel(const WeightReduceProblem problem, const compute_t<T>* partial,
                                         const compute_t<T>* partial_bias, T* grad_weight, T* grad_bias) {
  const int64_t row = problem.group_c * problem.taps, weights = problem.k * row;
  const int64_t i = int64_t{blockIdx.x} * kReduceThreads + threadIdx.x;
  if (i >= weights + problem.k) return;
  const bool is_bias = i >= weights;
  const compute_t<T>* values = is_bias ? partial_bias + (i - weights) : partial + i;
  const int64_t step = is_bias ? problem.k : weights;
  CarriedSum<compute_t<T>> sum;
  for (int split = 0; split < problem.splits; ++split) sum.add(values[split * step]);
  const T total = device::from_compute<T>(sum.total());
  if (is_bias) {
    grad_bias[i - weights] = total;
  } else if (!problem.channels_last) {
    grad_weight[i] = total;
  } else {
    const int64_t k = i / row, n = i % row, tap = n / problem.group_c, c = n % problem.group_c;
    grad_weight[(k * problem.group_c + c) * problem.taps + tap] = total;
  }
}

template <class T>
void launch_weight_reduce(const Conv2dShape& shape, int splits, bool channels_last,
                          const compute_t<T>* partial, const compute_t<T>* partial_bias, T* grad_weight,
                          T* grad_bias, cudaStream_t stream) {
  const WeightReduceProblem problem{shape.k, shape.group_c(), shape.r * shape.s, splits, channels_last};
  const int64_t weights = shape.k * shape.gemm_k();
  device::launch(
      {"conv2d_backward_weight_reduce_kernel",
       dim3(static_cast<unsigned>(ceil_div<int64_t>(weights + shape.k, kReduceThreads))),
       dim3(kReduceThreads), 0, stream, static_cast<double>(weights) * splits},
      {device::input("partial", partial, splits * weights),
       device::input("partial_bias", partial_bias, splits * shape.k),
       device::output("grad_weight", grad_weight, weights), device::output("grad_bias", grad_bias, shape.k)},
      [&] { return conv2d_text(shape); }, conv2d_backward_weight_reduce_kernel<T>, problem, partial,
      partial_bias, grad_weight, grad_bias);
}

}  // namespace cnnext
