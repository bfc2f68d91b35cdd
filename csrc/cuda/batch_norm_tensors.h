// From tensors to what batch_norm's launches take.
#pragma once

#include "../torch/batch_norm_checks.h"
#include "batch_norm_launch.cuh"
#include "context.h"

namespace cnnext {

inline ChannelValues values_in(const std::optional<Tensor>& tensor) {
  if (!tensor) return {nullptr, 0, ChannelValues::kFloat};
  const auto kind = [&] {
    switch (tensor->scalar_type()) {
      case ScalarType::Double:
        return ChannelValues::kDouble;
      case ScalarType::Half:
        return ChannelValues::kHalf;
      case ScalarType::BFloat16:
        return ChannelValues::kBFloat16;
      default:
        return ChannelValues::kFloat;
    }
  };
  return {tensor->const_data_ptr(), tensor->stride(0), kind()};
}

// `tensors` are those that the kernels walk through, dense in `input`'s sizes.
inline BatchNormCall call_of(const Tensor& input, bool channels_last,
                             std::initializer_list<std::optional<Tensor>> tensors, cudaStream_t stream) {
  bool aligned = true;
  for (const std::optional<Tensor>& tensor : tensors) {
    if (tensor) aligned = aligned && reinterpret_cast<uintptr_t>(tensor->const_data_ptr()) % 16 == 0;
  }
  return {batch_norm_problem(input.size(0), input.size(1), input.size(2) * input.size(3), channels_last,
                             static_cast<int>(input.element_size()), aligned,
                             device::current_device_limits().multiprocessors),
          stream};
}

inline Tensor partials(const Tensor& input, const BatchNormCall& call) {
  return empty(input, {call.partials()}, ScalarType::Double);
}

inline Tensor channel_values(const Tensor& input, int64_t c) {
  return empty(input, {c}, batch_norm_compute_dtype(input));
}

}  // namespace cnnext
