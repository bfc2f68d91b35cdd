// Asynchronous copies from global to shared memory (cp.async, sm_80 and newer). Copies are gathered in
// groups; the data are there for the copying thread after cp_async_wait and for the others after a barrier
// behind it. On sm_75 the copy is an ordinary load and store, and commit and wait do nothing.
#pragma once

#include "platform.cuh"
#include "vec_load.cuh"

namespace cnnext::device {

// Copies Bytes (4, 8 or 16), both ends aligned to Bytes; writes zeros instead where `valid` is false, and
// then does not read `global`, which may be any address. 16 bytes bypass L1: tiles are read once by each
// block.
template <int Bytes>
CNNEXT_DEVICE void cp_async(void* shared, const void* global, bool valid) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16, "cp.async moves 4, 8 or 16 bytes");
#if CNNEXT_ARCH < 800
  using Bits = Vector<uint32_t, Bytes / 4>;
  Bits bits = {};
  if (valid) {
    bits = load_vector<Bytes / 4>(static_cast<const uint32_t*>(global));
  }
  store_vector(static_cast<uint32_t*>(shared), bits);
#elif defined(CNNEXT_EMULATED)
  emulator::async_copy(shared, global, Bytes, valid ? Bytes : 0);
#else
  const int valid_bytes = valid ? Bytes : 0;
  if constexpr (Bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(shared)), "l"(__cvta_generic_to_global(global)), "r"(valid_bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                 :
                 : "r"(shared_address(shared)), "l"(__cvta_generic_to_global(global)), "n"(Bytes),
                   "r"(valid_bytes)
                 : "memory");
  }
#endif
}

// Closes the group of the copies issued since the last commit; a group may be empty.
CNNEXT_DEVICE void cp_async_commit() {
#if CNNEXT_ARCH >= 800
#if defined(CNNEXT_EMULATED)
  emulator::async_copy_commit();
#else
  asm volatile("cp.async.commit_group;" : : : "memory");
#endif
#endif
}

// Waits until at most GroupsLeft of this thread's newest groups are still under way.
template <int GroupsLeft>
CNNEXT_DEVICE void cp_async_wait() {
#if CNNEXT_ARCH >= 800
#if defined(CNNEXT_EMULATED)
  emulator::async_copy_wait(GroupsLeft);
#else
  asm volatile("cp.async.wait_group %0;" : : "n"(GroupsLeft) : "memory");
#endif
#endif
}

}  // namespace cnnext::device
