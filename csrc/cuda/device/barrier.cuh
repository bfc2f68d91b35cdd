// Named barriers: `threads` of the block, whole warps, meet at barrier `id` (1 … 15; 0 is __syncthreads').
#pragma once

#include "platform.cuh"

namespace cnnext::device {

CNNEXT_DEVICE void named_barrier_sync(int id, int threads) {
#if defined(CNNEXT_EMULATED)
  emulator::barrier(id, threads, emulator::Vote::kNone, 0, emulator::Site::here());
#else
  asm volatile("bar.sync %0, %1;" : : "r"(id), "r"(threads) : "memory");
#endif
}

}  // namespace cnnext::device
