// What the batch_norm ops on the CPU share: devices, shapes, parameters.
#pragma once

#include "../torch/batch_norm_checks.h"
#include "../torch/dispatch.h"
#include "batch_norm_kernel.h"
#include "batch_norm_threads.h"

namespace cnnext {

inline BatchNormShape shape_of(const Tensor& input, bool channels_last) {
  return batch_norm_shape(input.size(0), input.size(1), input.size(2) * input.size(3), channels_last);
}

inline void widen_into(const Tensor& tensor, double* values) {
  dispatch_floating(tensor, "parameter", [&](auto tag) {
    using S = typename decltype(tag)::type;
    batch_norm_kernels<S>().widen(data<S>(tensor), tensor.stride(0), values, tensor.size(0));
  });
}

// A parameter or statistic in double, null if there is none.
template <typename C>
const double* widened(const std::optional<Tensor>& tensor, BatchNormMemory<C>& memory) {
  if (!tensor) return nullptr;
  double* values = memory.take_parameter();
  widen_into(*tensor, values);
  return values;
}

// An unwritten value for each of `c` channels, in the dtype of the statistics.
inline Tensor channel_values(const Tensor& input, int64_t c) {
  return empty(input, {c}, batch_norm_compute_dtype(input));
}

}  // namespace cnnext
