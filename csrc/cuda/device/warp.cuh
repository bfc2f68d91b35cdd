// One warp: who am I, and reductions over the 32 lanes by shuffles. All 32 lanes must call.
#pragma once

#include "platform.cuh"

namespace cnnext::device {

// Index of the thread in its block, counted as the hardware does to make warps: x fastest, then y, then z.
CNNEXT_DEVICE int thread_in_block() {
  return static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
}

struct Sum {
  template <class T>
  CNNEXT_DEVICE T operator()(T a, T b) const {
    return a + b;
  }
};
struct Maximum {
  template <class T>
  CNNEXT_DEVICE T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

// The same value in every lane, combined in a butterfly: the order is fixed, so the bits do not vary from run
// to run. Width < 32 reduces each group of Width neighbours on its own.
template <int Width = kWarpSize, class T, class Combine>
CNNEXT_DEVICE T warp_reduce(T value, Combine combine) {
  static_assert(Width > 0 && Width <= kWarpSize && (Width & (Width - 1)) == 0,
                "a group is a power of two of lanes");
#pragma unroll
  for (int offset = Width / 2; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(kFullWarp, value, offset));
  }
  return value;
}

template <int Width = kWarpSize, class T>
CNNEXT_DEVICE T warp_sum(T value) {
  return warp_reduce<Width>(value, Sum{});
}

template <int Width = kWarpSize, class T>
CNNEXT_DEVICE T warp_max(T value) {
  return warp_reduce<Width>(value, Maximum{});
}

}  // namespace cnnext::device
