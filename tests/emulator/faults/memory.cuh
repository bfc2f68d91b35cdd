// Memory that nobody wrote, that nobody gave, or that is not where a vector may be; 64 threads.
#pragma once

#include "cuda/device/shared_memory.cuh"
#include "cuda/device/vec_load.cuh"

namespace faults {

struct Row {
  float value[64];
};

template <bool kPlanted>
__global__ void unwritten_shared_kernel(float* y) {
  auto& shared = cnnext::device::dynamic_shared<Row>();
  const int thread = threadIdx.x;
  if (!kPlanted || thread != 7) {
    shared.value[thread] = 1.0f;
  }
  y[thread] = shared.value[thread];  // planted: unwritten_shared
}

template <bool kPlanted>
__global__ void unwritten_output_kernel(float* y) {
  const int thread = threadIdx.x;
  if (!kPlanted) {
    y[thread] = 0.0f;
  }
  y[thread] += 1.0f;  // planted: unwritten_output
}

template <bool kPlanted>
__global__ void output_left_kernel(float* y) {
  const int thread = threadIdx.x;
  if (!kPlanted || thread != 63) {
    y[thread] = 1.0f;
  }
}

template <bool kPlanted>
__global__ void input_written_kernel(float* x, float* y) {
  const int thread = threadIdx.x;
  const float value = x[thread];
  (kPlanted ? x : y)[thread] = value + 1.0f;  // planted: input_written
  y[thread] = value;
}

// x holds 63 values: the last thread must not read.
template <bool kPlanted>
__global__ void global_bounds_kernel(const float* x, float* y) {
  const int thread = threadIdx.x;
  float value = 0.0f;
  if (kPlanted || thread < 63) {
    value = x[thread];  // planted: global_bounds
  }
  y[thread] = value;
}

// The launch gives room for 63 values.
template <bool kPlanted>
__global__ void shared_bounds_kernel(float* y) {
  auto& shared = cnnext::device::dynamic_shared<Row>();
  const int thread = threadIdx.x;
  if (kPlanted || thread < 63) {
    shared.value[thread] = 1.0f;  // planted: shared_bounds
  }
  y[thread] = 1.0f;
}

// x holds 68 values; pairs from an odd place on are not aligned.
template <bool kPlanted>
__global__ void misaligned_vector_kernel(const float* x, float* y) {
  const int thread = threadIdx.x;
  const float* pointer = x + (kPlanted && thread == 5 ? 1 : 2);
  y[thread] = cnnext::device::load_vector<2>(pointer)[0];  // planted: misaligned_vector
}

template <bool kPlanted>
__global__ void misaligned_plain_kernel(const float* x, float* y) {
  const int thread = threadIdx.x;
  const float* pointer = x + (kPlanted && thread == 5 ? 1 : 2);
  y[thread] =
      static_cast<float>(*reinterpret_cast<const long long*>(pointer) != 0);  // planted: misaligned_plain
}

}  // namespace faults
