// What happens to an accumulator on its way out of a convolution, for every algorithm:
//   v = acc + bias[k] + residual[offset]     each where it is there; the residual lies as the output does
//   v = max(v, 0)                            where `relu` is true; NaN stays
//   y[offset] = v, rounded to T
// and, for a convolution with neither residual nor ReLU, the moments of what it stores, by
// conv2d_moments.cuh. The steps are chosen at run time: beside a tile's products they cost nothing, and a
// kernel is one for all.
#pragma once

#include "device/convert.cuh"
#include "device/vec_load.cuh"

namespace cnnext {

template <class T>
struct Conv2dEpilogue {
  using Storage = T;
  using C = compute_t<T>;

  const T* bias = nullptr;      // [k]
  const T* residual = nullptr;  // as the output
  bool relu = false;
  double* moments = nullptr;  // [blocks of pixels][2][channels]
  int64_t channels = 0;       // k, of all groups

  CNNEXT_DEVICE C finished(C value) const { return relu && value < C(0) ? C(0) : value; }

  // The value to be stored for output channel k at `offset` of the output.
  CNNEXT_DEVICE T apply(C acc, int64_t k, int64_t offset) const {
    if (bias != nullptr) acc += device::to_compute(bias[k]);
    if (residual != nullptr) acc += device::to_compute(residual[offset]);
    return device::from_compute<T>(finished(acc));
  }

  // N values side by side in memory: channels k … k + N − 1 of a pixel (NHWC), or pixels of channel k (NCHW).
  // bias + k and the residual must be aligned to the vector.
  template <bool kAlongChannels, int N>
  CNNEXT_DEVICE device::Vector<T, N> apply(const C (&acc)[N], int64_t k, int64_t offset) const {
    device::Vector<T, N> b{}, rest{};
    if (bias != nullptr && kAlongChannels) b = device::load_vector<N>(bias + k);
    if (bias != nullptr && !kAlongChannels) b[0] = bias[k];
    if (residual != nullptr) rest = device::load_vector<N>(residual + offset);
    device::Vector<T, N> result;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      C value = acc[i];
      if (bias != nullptr) value += device::to_compute(b[kAlongChannels ? i : 0]);
      if (residual != nullptr) value += device::to_compute(rest[i]);
      result[i] = device::from_compute<T>(finished(value));
    }
    return result;
  }
};

}  // namespace cnnext
