// Two threads, one of them writing, and nothing between them.
#pragma once

#include "cuda/device/atomic.cuh"
#include "cuda/device/shared_memory.cuh"

namespace faults {

struct Exchange {
  float value[64];
};

// y[i] = 63 − i: the values are read by others than wrote them. 64 threads.
template <bool kPlanted>
__global__ void read_after_write_kernel(float* y) {
  auto& shared = cnnext::device::dynamic_shared<Exchange>();
  const int thread = threadIdx.x;
  shared.value[thread] = 0.0f;
  __syncthreads();
  shared.value[thread] = static_cast<float>(thread);  // planted: read_after_write
  if (!kPlanted) {
    __syncthreads();
  }
  y[thread] = shared.value[63 - thread];  // other side: read_after_write
}

// The values are rotated in place.
template <bool kPlanted>
__global__ void write_after_read_kernel(float* y) {
  auto& shared = cnnext::device::dynamic_shared<Exchange>();
  const int thread = threadIdx.x;
  shared.value[thread] = static_cast<float>(thread);
  __syncthreads();
  const float next = shared.value[(thread + 1) % 64];  // other side: write_after_read
  if (!kPlanted) {
    __syncthreads();
  }
  shared.value[thread] = next;  // planted: write_after_read
  __syncthreads();
  y[thread] = shared.value[thread];
}

// Within one warp __syncwarp is enough, and needed.
template <bool kPlanted>
__global__ void warp_exchange_kernel(float* y) {
  auto& shared = cnnext::device::dynamic_shared<Exchange>();
  const int thread = threadIdx.x;
  shared.value[thread] = 0.0f;
  __syncthreads();
  shared.value[thread] = static_cast<float>(thread);  // planted: warp_exchange
  if (!kPlanted) {
    __syncwarp();
  }
  y[thread] = shared.value[thread ^ 1];  // other side: warp_exchange
}

// total = sum of the blocks' partial sums, added by the block that comes last; one thread a block.
template <bool kPlanted>
__global__ void between_blocks_kernel(float* partial, unsigned* counter, float* total) {
  partial[blockIdx.x] = static_cast<float>(blockIdx.x);  // other side: between_blocks
  const bool last =
      kPlanted ? blockIdx.x == gridDim.x - 1 : cnnext::device::arrive_is_last(counter, gridDim.x);
  if (last) {
    float sum = 0.0f;
    for (unsigned block = 0; block < gridDim.x; ++block) {
      sum += partial[block];  // planted: between_blocks
    }
    *total = sum;
  }
}

}  // namespace faults
