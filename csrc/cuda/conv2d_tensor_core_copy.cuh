// Copies from global to shared memory for the loaders, and what keeps their address arithmetic short.
#pragma once

#include "conv2d_tensor_core_config.h"
#include "device/cp_async.cuh"
#include "device/vec_load.cuh"

namespace cnnext::tensor_core {

inline constexpr bool kHasAsyncCopy = CNNEXT_ARCH >= 800;
inline constexpr int kEveryStep = 0;  // kDescribed of a loader that needs nothing new on the way

// Keeps in a register what the compiler would calculate anew in each step of the main loop.
template <class T>
CNNEXT_DEVICE T in_register(T value) {
#if !defined(CNNEXT_EMULATED)
  if constexpr (sizeof(T) == 8) {
    asm volatile("" : "+l"(value));
  } else {
    asm volatile("" : "+r"(value));
  }
#endif
  return value;
}

// pointer + offset as one instruction: left to itself, the compiler adds 64-bit parts in an order of its own.
template <class T>
CNNEXT_DEVICE const T* element_address(const T* pointer, int offset) {
#if defined(CNNEXT_EMULATED)
  return pointer + offset;
#else
  uint64_t address;
  asm("mad.wide.s32 %0, %1, %2, %3;"
      : "=l"(address)
      : "r"(offset), "n"(sizeof(T)), "l"(reinterpret_cast<uint64_t>(pointer)));
  return reinterpret_cast<const T*>(address);
#endif
}

// Chunks that one thread copies to rows `first + i · (rows between)` of a tile: by cp.async, or on older
// devices through registers, from `fetch` to `land`.
template <int kCount>
class ChunkCopies {
 public:
  CNNEXT_DEVICE void fetch([[maybe_unused]] int i, [[maybe_unused]] char* shared, const void* global,
                           bool valid) {
#if CNNEXT_ARCH >= 800
    device::cp_async<kChunkBytes>(shared, global, valid);
#else
    staged_[i] = {};
    if (valid) staged_[i] = device::load_vector_readonly<4>(static_cast<const uint32_t*>(global));
#endif
  }
  CNNEXT_DEVICE void land([[maybe_unused]] int i, [[maybe_unused]] char* shared) {
#if CNNEXT_ARCH < 800
    device::store_vector(reinterpret_cast<uint32_t*>(shared), staged_[i]);
#endif
  }

 private:
#if CNNEXT_ARCH < 800
  device::Vector<uint32_t, 4> staged_[kCount];
#endif
};

}  // namespace cnnext::tensor_core
