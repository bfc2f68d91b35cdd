// Asynchronous copies and their waits; 32 threads, y = x.
#pragma once

#include "cuda/device/cp_async.cuh"
#include "cuda/device/shared_memory.cuh"

namespace faults {

struct Stages {
  float value[2][32];
};

// Two copies in two groups; only the first may be used while the second is under way.
template <bool kPlanted>
__global__ void copy_used_early_kernel(const float* x, float* y) {
  auto& shared = cnnext::device::dynamic_shared<Stages>();
  const int thread = threadIdx.x;
  for (int stage = 0; stage < 2; ++stage) {
    float* target = &shared.value[stage][thread];
    cnnext::device::cp_async<4>(target, x + stage * 32 + thread, true);  // other side: copy_used_early
    cnnext::device::cp_async_commit();
  }
  cnnext::device::cp_async_wait<1>();
  y[thread] = shared.value[kPlanted ? 1 : 0][thread];  // planted: copy_used_early
  cnnext::device::cp_async_wait<0>();
  y[32 + thread] = shared.value[1][thread];
}

template <bool kPlanted>
__global__ void copy_never_waited_kernel(const float* x, float* y) {
  auto& shared = cnnext::device::dynamic_shared<Stages>();
  const int thread = threadIdx.x;
  cnnext::device::cp_async<4>(&shared.value[0][thread], x + thread, true);  // planted: copy_never_waited
  cnnext::device::cp_async_commit();
  if (!kPlanted) {
    cnnext::device::cp_async_wait<0>();
    y[thread] = shared.value[0][thread];
  }
  y[32 + thread] = x[32 + thread];
}

// The second half is outside: zeros take its place and its address is not read.
__global__ void copy_zero_fill_kernel(const float* x, float* y) {
  auto& shared = cnnext::device::dynamic_shared<Stages>();
  const int thread = threadIdx.x;
  for (int stage = 0; stage < 2; ++stage) {
    const bool valid = stage == 0;
    cnnext::device::cp_async<4>(&shared.value[stage][thread], valid ? x + thread : x + 1000000, valid);
  }
  cnnext::device::cp_async_commit();
  cnnext::device::cp_async_wait<0>();
  for (int stage = 0; stage < 2; ++stage) {
    y[stage * 32 + thread] = shared.value[stage][thread];
  }
}

}  // namespace faults
