// What a convolution makes of its source while that is on its way from global to shared memory or registers:
// relu((x − center)·scale + offset), the norm and the ReLU of the layer before. Zeros of the padding stay
// zeros. The result is rounded to T, as it would be in memory.
#pragma once

#include "batch_norm_normalise.cuh"

namespace cnnext {

template <class C>
struct ChannelNorm {
  C center, scale, offset;

  template <class T>
  CNNEXT_DEVICE T activated(T value) const {
    return device::from_compute<T>(rectified(normalised(device::to_compute(value), center, scale, offset)));
  }
};

template <class T>
struct Conv2dPrologue {
  using C = compute_t<T>;

  const C *center = nullptr, *scale = nullptr, *offset = nullptr;  // [c], of all groups; null: no prologue

  CNNEXT_HOST_DEVICE bool exists() const { return center != nullptr; }
  CNNEXT_DEVICE ChannelNorm<C> of(int64_t channel) const {
    return {center[channel], scale[channel], offset[channel]};
  }
};

}  // namespace cnnext
