// Kernels whose counters can be worked out by hand, and one whose result must not depend on the order of the
// warps.
#pragma once

#include "cuda/device/atomic.cuh"
#include "cuda/device/block_reduce.cuh"
#include "cuda/device/shared_memory.cuh"
#include "cuda/device/vec_load.cuh"

namespace faults {

// y[i] = x[i · kStride], 64 threads a block.
template <int kStride>
__global__ void strided_copy_kernel(const float* x, float* y) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  y[i] = x[i * kStride];
}

__global__ void vector_copy_kernel(const float* x, float* y) {
  const int i = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
  cnnext::device::store_vector(y + i, cnnext::device::load_vector<4>(x + i));
}

struct Banks {
  float value[32 * 32];
};

// Each lane writes its own word, 4 · kStride bytes from its neighbour's, and reads it back; one warp.
template <int kStride>
__global__ void shared_stride_kernel(float* y) {
  auto& shared = cnnext::device::dynamic_shared<Banks>();
  const int lane = threadIdx.x;
  shared.value[lane * kStride] = static_cast<float>(lane);
  __syncthreads();
  y[lane] = shared.value[lane * kStride];
}

// Lanes part ways: even ones pass the load twice as often as odd ones.
__global__ void diverged_loads_kernel(const float* x, float* y) {
  const int lane = threadIdx.x;
  float sum = 0.0f;
  for (int i = 0; i < (lane % 2 == 0 ? 2 : 1); ++i) {
    sum += x[i * 32 + lane];
  }
  y[lane] = sum;
}

constexpr int kOrderThreads = 128;

// Sums of floats whose order shows in the bits, a vote, an exchange through shared memory and an atomic
// maximum.
__global__ void any_order_kernel(const float* x, float* y, unsigned* most) {
  using Storage = cnnext::device::BlockReduceStorage<float, kOrderThreads>;
  auto& storage = cnnext::device::static_shared<Storage>();
  auto& shared = cnnext::device::dynamic_shared<Banks>();
  const int thread = threadIdx.x, i = blockIdx.x * kOrderThreads + thread;
  shared.value[thread] = x[i];
  const float sum = cnnext::device::block_sum<kOrderThreads>(x[i], storage);
  const int above = __syncthreads_count(x[i] > 0.5f);
  const unsigned ballot = __ballot_sync(cnnext::device::kFullWarp, x[i] > 0.5f);
  const float scale =
      cnnext::device::block_sum<kOrderThreads>(shared.value[kOrderThreads - 1 - thread] * sum, storage);
  y[i] = scale + static_cast<float>(above) + static_cast<float>(ballot & 0xffu);
  cnnext::device::atomic_max(most, static_cast<unsigned>(above));
}

// The integer reductions of sm_80, and the votes; y[8][32].
__global__ void reductions_kernel(const int* x, int* y) {
  const unsigned all = cnnext::device::kFullWarp;
  const int lane = threadIdx.x, value = x[lane];
  y[lane] = __any_sync(all, value == 7);
  y[32 + lane] = __all_sync(all, value < 100);
#if CNNEXT_ARCH >= 800
  const auto bits = static_cast<unsigned>(value);
  y[64 + lane] = __reduce_add_sync(all, value);
  y[96 + lane] = __reduce_min_sync(all, value);
  y[128 + lane] = __reduce_max_sync(all, value);
  y[160 + lane] = static_cast<int>(__reduce_and_sync(all, bits));
  y[192 + lane] = static_cast<int>(__reduce_or_sync(all, bits));
  y[224 + lane] = static_cast<int>(__reduce_xor_sync(all, bits));
#endif
}

}  // namespace faults
