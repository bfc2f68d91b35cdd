// Storage types and the type a kernel calculates in: float for __half and __nv_bfloat16, else the type
// itself. The 16-bit types round to the nearest even on the way back, as torch's do.
#pragma once

#include "../../common/math.h"
#include "platform.cuh"

namespace cnnext {

template <>
struct ComputeType<__half> {
  using type = float;
};
template <>
struct ComputeType<__nv_bfloat16> {
  using type = float;
};

}  // namespace cnnext

namespace cnnext::device {

CNNEXT_DEVICE float to_compute(float value) { return value; }
CNNEXT_DEVICE double to_compute(double value) { return value; }
CNNEXT_DEVICE float to_compute(__half value) { return __half2float(value); }
CNNEXT_DEVICE float to_compute(__nv_bfloat16 value) { return __bfloat162float(value); }

// T from_compute<T>(value): what is stored.
template <class T>
CNNEXT_DEVICE T from_compute(compute_t<T> value) {
  return value;
}
template <>
CNNEXT_DEVICE __half from_compute<__half>(float value) {
  return __float2half_rn(value);
}
template <>
CNNEXT_DEVICE __nv_bfloat16 from_compute<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

}  // namespace cnnext::device
