// The block: built-in indices, barriers, fences.
#pragma once

#include <emulator/qualifiers.h>
#include <emulator/site.h>
#include <vector_types.h>

#include <cstdint>

// Set at every switch of fibers. `const` as in CUDA, which also keeps ThreadSanitizer from instrumenting
// their reads; a fiber's values never change while it runs, so a compiler may keep them in registers.
extern EMULATOR_API const uint3 threadIdx;
extern EMULATOR_API const uint3 blockIdx;
extern EMULATOR_API const dim3 blockDim;
extern EMULATOR_API const dim3 gridDim;
inline constexpr int warpSize = 32;

namespace emulator {

enum class Vote { kNone, kCount, kAnd, kOr };

// Every thread of the block (threads == 0) or `threads` of them, a multiple of the warp size, meet at barrier
// `id`. Returns the vote over the predicates of those that met.
EMULATOR_API int barrier(int id, int threads, Vote vote, int predicate, Site site);

// __threadfence: what this block has written so far may be read by a block that later does an atomic
// operation.
EMULATOR_API void device_fence();

[[noreturn]] EMULATOR_API void trap(Site site);

}  // namespace emulator

__forceinline__ void __syncthreads(emulator::Site site = emulator::Site::here()) {
  emulator::barrier(0, 0, emulator::Vote::kNone, 0, site);
}
__forceinline__ int __syncthreads_count(int predicate, emulator::Site site = emulator::Site::here()) {
  return emulator::barrier(0, 0, emulator::Vote::kCount, predicate, site);
}
__forceinline__ int __syncthreads_and(int predicate, emulator::Site site = emulator::Site::here()) {
  return emulator::barrier(0, 0, emulator::Vote::kAnd, predicate, site);
}
__forceinline__ int __syncthreads_or(int predicate, emulator::Site site = emulator::Site::here()) {
  return emulator::barrier(0, 0, emulator::Vote::kOr, predicate, site);
}
__forceinline__ void __trap(emulator::Site site = emulator::Site::here()) { emulator::trap(site); }
__forceinline__ void __threadfence() { emulator::device_fence(); }
// Within a block a fence orders the threads' own accesses but lets nobody else see them without a barrier.
__forceinline__ void __threadfence_block() {}
