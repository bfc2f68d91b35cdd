// The dtype switch: from a tensor's run-time dtype to the storage type a kernel is written for.
#pragma once

#include "../common/math.h"
#include "checks.h"

namespace cnnext {

template <typename T>
struct Tag {
  using type = T;
};

// Calls run(Tag<T>{}) with T the storage type of `tensor`, which must be of one of the four floating dtypes.
template <typename Run>
auto dispatch_floating(const Tensor& tensor, const char* name, Run&& run) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return run(Tag<float>{});
    case ScalarType::Double:
      return run(Tag<double>{});
    case ScalarType::Half:
      return run(Tag<half_t>{});
    case ScalarType::BFloat16:
      return run(Tag<bfloat16_t>{});
    default:
      check(false, "expected `", name, "` of dtype float32, float64, float16 or bfloat16, but got ",
            toString(tensor.scalar_type()));
      return run(Tag<float>{});  // not reached: check throws
  }
}

// The stable ABI's typed accessors know only torch's own C++ types, ours for 16 bits are not among them.
template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

template <typename T>
const T* data(const std::optional<Tensor>& tensor) {
  return tensor ? data<T>(*tensor) : nullptr;
}

}  // namespace cnnext
