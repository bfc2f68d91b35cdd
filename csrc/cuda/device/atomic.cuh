// Atomic operations on global or shared memory. Floating-point addition in the order the blocks happen to
// come is not reproducible: the kernels use it only where a docstring says so.
#pragma once

#include "platform.cuh"

namespace cnnext::device {

// T is float, double, int, unsigned or unsigned long long; returns the value before.
template <class T>
CNNEXT_DEVICE T atomic_add(T* pointer, T value) {
  return atomicAdd(pointer, value);
}

// T is int, unsigned or unsigned long long; returns the value before.
template <class T>
CNNEXT_DEVICE T atomic_max(T* pointer, T value) {
  return atomicMax(pointer, value);
}

// True in exactly one of `parties` callers: the last. What the others wrote before their call is visible to
// it. The counter must be 0 at first and is 0 again afterwards. One thread of each block calls, behind a
// barrier of the block.
CNNEXT_DEVICE bool arrive_is_last(unsigned* counter, unsigned parties) {
  __threadfence();
  const bool last = atomicInc(counter, parties - 1) == parties - 1;
  __threadfence();
  return last;
}

}  // namespace cnnext::device
