// Atomic operations. Blocks run one after the other and fibers switch only at synchronisation, so a plain
// update is atomic; what matters is that the memory checks know it for one.
#pragma once

#include <emulator/qualifiers.h>

#include <cstddef>

namespace emulator {

EMULATOR_API void atomic_access(void* memory, int bytes, const void* code);

// Not instrumented: the update must reach the checks once, as an atomic, and not as a read and a write.
template <class T, class Update>
__attribute__((noinline, no_sanitize("thread"))) T atomic_update(T* memory, Update update) {
  atomic_access(memory, sizeof(T), __builtin_return_address(0));
  const T old = *memory;
  *memory = update(old);
  return old;
}

}  // namespace emulator

template <class T>
__forceinline__ T atomicAdd(T* memory, T value) {
  return emulator::atomic_update(memory, [=](T old) { return static_cast<T>(old + value); });
}
template <class T>
__forceinline__ T atomicMax(T* memory, T value) {
  return emulator::atomic_update(memory, [=](T old) { return old < value ? value : old; });
}
template <class T>
__forceinline__ T atomicMin(T* memory, T value) {
  return emulator::atomic_update(memory, [=](T old) { return value < old ? value : old; });
}
template <class T>
__forceinline__ T atomicExch(T* memory, T value) {
  return emulator::atomic_update(memory, [=](T) { return value; });
}
template <class T>
__forceinline__ T atomicCAS(T* memory, T expected, T value) {
  return emulator::atomic_update(memory, [=](T old) { return old == expected ? value : old; });
}
__forceinline__ unsigned atomicInc(unsigned* memory, unsigned limit) {
  return emulator::atomic_update(memory, [=](unsigned old) { return old >= limit ? 0u : old + 1u; });
}
