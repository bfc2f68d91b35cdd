// Warp collectives that the lanes of the mask do not reach together; one warp.
#pragma once

#include "cuda/device/warp.cuh"

namespace faults {

using cnnext::device::kFullWarp;

// y[i] = sum of the lanes.
template <bool kPlanted>
__global__ void collective_not_reached_kernel(float* y) {
  const int lane = threadIdx.x;
  float sum = 0.0f;
  if (!kPlanted || lane < 16) {
    sum = cnnext::device::warp_sum(static_cast<float>(lane));  // planted: collective_not_reached
  }
  y[lane] = sum;
}

template <bool kPlanted>
__global__ void divergent_collective_kernel(float* y) {
  const int lane = threadIdx.x;
  int other = 0;
  if (!kPlanted || lane % 2 == 0) {
    other = __shfl_xor_sync(kFullWarp, lane, 1);
  } else {
    other = __shfl_xor_sync(kFullWarp, lane, 3);  // planted: divergent_collective
  }
  y[lane] = static_cast<float>(other);
}

template <bool kPlanted>
__global__ void undefined_shuffle_kernel(float* y) {
  const int lane = threadIdx.x;
  if (lane < 16) {
    y[lane] =
        static_cast<float>(__shfl_sync(0xffffu, lane, kPlanted ? 20 : 5));  // planted: undefined_shuffle
  } else {
    y[lane] = 5.0f;
  }
}

}  // namespace faults
