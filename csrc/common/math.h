// Storage types and small integer arithmetic, for host and device, free of torch.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define CNNEXT_HOST_DEVICE __host__ __device__
#else
#define CNNEXT_HOST_DEVICE
#endif

namespace cnnext {

// 16-bit storage on the CPU: kernels convert on load and on store and never calculate in it.
struct half_t {
  uint16_t bits;
};
struct bfloat16_t {
  uint16_t bits;
};

// The type a kernel calculates and accumulates in for a storage type.
template <typename T>
struct ComputeType {
  using type = T;
};
template <>
struct ComputeType<half_t> {
  using type = float;
};
template <>
struct ComputeType<bfloat16_t> {
  using type = float;
};
template <typename T>
using compute_t = typename ComputeType<T>::type;

template <typename Int>
CNNEXT_HOST_DEVICE constexpr Int ceil_div(Int a, Int b) {
  return (a + b - 1) / b;
}

template <typename Int>
CNNEXT_HOST_DEVICE constexpr Int round_up(Int a, Int multiple) {
  return ceil_div(a, multiple) * multiple;
}

// Floor of a / b for b > 0 and a of either sign (C++ rounds towards zero).
template <typename Int>
CNNEXT_HOST_DEVICE constexpr Int floor_div(Int a, Int b) {
  return a >= 0 ? a / b : -((-a + b - 1) / b);
}

template <typename Int>
CNNEXT_HOST_DEVICE constexpr Int smaller(Int a, Int b) {
  return a < b ? a : b;
}

template <typename Int>
CNNEXT_HOST_DEVICE constexpr Int larger(Int a, Int b) {
  return a > b ? a : b;
}

}  // namespace cnnext
