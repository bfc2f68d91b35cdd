// Shared memory, vector accesses and asynchronous copies.
#pragma once

#include <emulator/qualifiers.h>

#include <cstddef>

namespace emulator {

// The block's dynamic shared memory, `bytes` long as the launch asked.
EMULATOR_API void* dynamic_shared();

// The static shared object named by `key` (one address for each object of the kernel); made at the first call
// in a launch.
EMULATOR_API void* static_shared(const void* key, size_t bytes, size_t alignment);

// One vector access of `bytes` (2, 4, 8 or 16), aligned to its size: one instruction on the device, hence one
// request in the counters. The copy is made in here, where it is not instrumented a second time.
EMULATOR_API void load_vector(void* registers, const void* memory, int bytes);
EMULATOR_API void store_vector(void* memory, const void* registers, int bytes);

// cp.async: `valid_bytes` of `bytes` are copied, the rest is filled with zeros. The destination holds NaN
// patterns until the wait that completes the copy's group, and the copy itself happens there: a missing wait
// reads NaN, never luck.
EMULATOR_API void async_copy(void* shared, const void* global, int bytes, int valid_bytes);
EMULATOR_API void async_copy_commit();
EMULATOR_API void async_copy_wait(int groups_left);

}  // namespace emulator

template <class T>
__forceinline__ T __ldg(const T* pointer) {
  static_assert(sizeof(T) <= 16, "__ldg reads at most 16 bytes");
  if constexpr (sizeof(T) == 1) {
    return *pointer;
  } else {
    T value;
    emulator::load_vector(&value, pointer, sizeof(T));
    return value;
  }
}
