// Barriers that not all threads reach, or that are not the same one; 64 threads.
#pragma once

#include "cuda/device/barrier.cuh"
#include "cuda/device/platform.cuh"
#include "cuda/device/shared_memory.cuh"

namespace faults {

struct SixtyFour {
  float value[64];
};

// y[i] = 63 − i, through shared memory.
template <bool kPlanted>
__global__ void barrier_not_reached_kernel(float* y) {
  auto& shared = cnnext::device::static_shared<SixtyFour>();
  const int thread = threadIdx.x;
  shared.value[thread] = static_cast<float>(thread);
  if (kPlanted && thread >= 40) {
    return;
  }
  __syncthreads();  // planted: barrier_not_reached
  y[thread] = shared.value[63 - thread];
}

template <bool kPlanted>
__global__ void divergent_barrier_kernel(float* y) {
  auto& shared = cnnext::device::static_shared<SixtyFour>();
  const int thread = threadIdx.x;
  shared.value[thread] = static_cast<float>(thread);
  if (kPlanted && thread < 32) {
    __syncthreads();
  } else {
    __syncthreads();  // planted: divergent_barrier
  }
  y[thread] = shared.value[63 - thread];
}

// The two warps pass values each on its own named barrier; the fault is to read what the other warp wrote.
template <bool kPlanted>
__global__ void named_barrier_kernel(float* y) {
  auto& shared = cnnext::device::static_shared<SixtyFour>();
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  if (kPlanted) {
    shared.value[thread] = 0.0f;
    __syncthreads();
  }
  shared.value[thread] = static_cast<float>(lane);  // planted: named_barrier
  cnnext::device::named_barrier_sync(1 + warp, 32);
  const int source_warp = kPlanted ? 1 - warp : warp;
  y[thread] = shared.value[source_warp * 32 + 31 - lane];  // other side: named_barrier
}

}  // namespace faults
