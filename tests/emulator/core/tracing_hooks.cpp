// g++ -fsanitize=thread calls one of these at every access to memory that is not a plain local variable. The
// kernels are compiled with it and linked with these instead of ThreadSanitizer's runtime.
#include <emulator/qualifiers.h>

#include <cstdint>
#include <string>

#include "machine.h"
#include "memory_check.h"

namespace emulator {
namespace {

void hook(const void* memory, int bytes, Access access, bool aligned, const void* code) {
  if (machine.current == nullptr || !tracing()) {
    return;  // the launcher's own code, before and after the kernel
  }
  if (aligned && reinterpret_cast<uintptr_t>(memory) % static_cast<uintptr_t>(bytes) != 0) {
    raise(FaultKind::kMisaligned,
          "an access of " + std::to_string(bytes) + " bytes to an address that is not a multiple of it",
          code);
  }
  check_access(memory, bytes, access, code);
}

}  // namespace
}  // namespace emulator

extern "C" {

#define EMULATOR_HOOKS(bytes)                                                                    \
  EMULATOR_API void __tsan_read##bytes(void* memory) {                                           \
    emulator::hook(memory, bytes, emulator::Access::kRead, true, __builtin_return_address(0));   \
  }                                                                                              \
  EMULATOR_API void __tsan_write##bytes(void* memory) {                                          \
    emulator::hook(memory, bytes, emulator::Access::kWrite, true, __builtin_return_address(0));  \
  }                                                                                              \
  EMULATOR_API void __tsan_unaligned_read##bytes(void* memory) {                                 \
    emulator::hook(memory, bytes, emulator::Access::kRead, false, __builtin_return_address(0));  \
  }                                                                                              \
  EMULATOR_API void __tsan_unaligned_write##bytes(void* memory) {                                \
    emulator::hook(memory, bytes, emulator::Access::kWrite, false, __builtin_return_address(0)); \
  }                                                                                              \
  EMULATOR_API void __tsan_volatile_read##bytes(void* memory) {                                  \
    emulator::hook(memory, bytes, emulator::Access::kRead, true, __builtin_return_address(0));   \
  }                                                                                              \
  EMULATOR_API void __tsan_volatile_write##bytes(void* memory) {                                 \
    emulator::hook(memory, bytes, emulator::Access::kWrite, true, __builtin_return_address(0));  \
  }

EMULATOR_HOOKS(1)
EMULATOR_HOOKS(2)
EMULATOR_HOOKS(4)
EMULATOR_HOOKS(8)
EMULATOR_HOOKS(16)

EMULATOR_API void __tsan_read_range(void* memory, unsigned long bytes) {
  emulator::hook(memory, static_cast<int>(bytes), emulator::Access::kRead, false,
                 __builtin_return_address(0));
}
EMULATOR_API void __tsan_write_range(void* memory, unsigned long bytes) {
  emulator::hook(memory, static_cast<int>(bytes), emulator::Access::kWrite, false,
                 __builtin_return_address(0));
}

EMULATOR_API void __tsan_init() {}
EMULATOR_API void __tsan_func_entry(void*) {}
EMULATOR_API void __tsan_func_exit() {}
EMULATOR_API void __tsan_vptr_read(void**) {}
EMULATOR_API void __tsan_vptr_update(void**, void*) {}

// Host code of a launcher (reference counts, once-flags) uses C++ atomics; they keep their meaning.
#define EMULATOR_ATOMIC_UPDATE(bits, name)                                                  \
  EMULATOR_API uint##bits##_t __tsan_atomic##bits##_##name(volatile uint##bits##_t* memory, \
                                                           uint##bits##_t value, int) {     \
    return __atomic_##name(memory, value, __ATOMIC_SEQ_CST);                                \
  }
#define EMULATOR_ATOMIC_EXCHANGE_IF_EQUAL(bits, strength, weak)                                            \
  EMULATOR_API int __tsan_atomic##bits##_compare_exchange_##strength(                                      \
      volatile uint##bits##_t* memory, uint##bits##_t* expected, uint##bits##_t value, int, int) {         \
    return __atomic_compare_exchange_n(memory, expected, value, weak, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }
#define EMULATOR_ATOMICS(bits)                                                                         \
  EMULATOR_API uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t* memory, int) { \
    return __atomic_load_n(memory, __ATOMIC_SEQ_CST);                                                  \
  }                                                                                                    \
  EMULATOR_API void __tsan_atomic##bits##_store(volatile uint##bits##_t* memory, uint##bits##_t value, \
                                                int) {                                                 \
    __atomic_store_n(memory, value, __ATOMIC_SEQ_CST);                                                 \
  }                                                                                                    \
  EMULATOR_API uint##bits##_t __tsan_atomic##bits##_exchange(volatile uint##bits##_t* memory,          \
                                                             uint##bits##_t value, int) {              \
    return __atomic_exchange_n(memory, value, __ATOMIC_SEQ_CST);                                       \
  }                                                                                                    \
  EMULATOR_ATOMIC_UPDATE(bits, fetch_add)                                                              \
  EMULATOR_ATOMIC_UPDATE(bits, fetch_sub)                                                              \
  EMULATOR_ATOMIC_UPDATE(bits, fetch_and)                                                              \
  EMULATOR_ATOMIC_UPDATE(bits, fetch_or)                                                               \
  EMULATOR_ATOMIC_UPDATE(bits, fetch_xor)                                                              \
  EMULATOR_ATOMIC_EXCHANGE_IF_EQUAL(bits, strong, false)                                               \
  EMULATOR_ATOMIC_EXCHANGE_IF_EQUAL(bits, weak, true)

EMULATOR_ATOMICS(8)
EMULATOR_ATOMICS(16)
EMULATOR_ATOMICS(32)
EMULATOR_ATOMICS(64)

EMULATOR_API void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
EMULATOR_API void __tsan_atomic_signal_fence(int) {}

}  // extern "C"
