// A reduction over a block of kThreads: butterflies within the warps, the warps' results through shared
// memory, and one more butterfly. Two barriers; the order of the operations is fixed, so the result has the
// same bits every time.
#pragma once

#include "platform.cuh"
#include "warp.cuh"

namespace cnnext::device {

template <class T, int kThreads>
struct BlockReduceStorage {
  static_assert(kThreads % kWarpSize == 0, "whole warps, so that every lane takes part in the shuffles");
  static_assert(kThreads / kWarpSize <= kWarpSize, "the second butterfly has one lane for each warp");
  T warp_result[kThreads / kWarpSize];
};

// Every thread of the block must call; every thread gets the result. `identity` is the neutral value of
// `combine`. The storage may be used by the next call at once: a call writes to it behind a barrier of its
// own.
template <int kThreads, class T, class Combine>
CNNEXT_DEVICE T block_reduce(T value, Combine combine, T identity, BlockReduceStorage<T, kThreads>& storage) {
  constexpr int kWarps = kThreads / kWarpSize;
  const int thread = thread_in_block();
  value = warp_reduce(value, combine);
  __syncthreads();  // the storage may still be read by the call before this one
  if (thread % kWarpSize == 0) {
    storage.warp_result[thread / kWarpSize] = value;
  }
  __syncthreads();
  const int lane = thread % kWarpSize;
  value = lane < kWarps ? storage.warp_result[lane] : identity;
  return warp_reduce(value, combine);
}

template <int kThreads, class T>
CNNEXT_DEVICE T block_sum(T value, BlockReduceStorage<T, kThreads>& storage) {
  return block_reduce<kThreads>(value, Sum{}, T(0), storage);
}

}  // namespace cnnext::device
