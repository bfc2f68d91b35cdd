// The one way to shared memory. A kernel groups what it needs in a struct and asks for it once:
//   auto& shared = dynamic_shared<Tiles>();    sized by the launch (LaunchConfig::dynamic_shared_bytes)
//   auto& shared = static_shared<Partials>();  sized by its type, at most 48 KiB a block
// Two static objects of one kernel need two types: the type is the object's name.
#pragma once

#include "platform.cuh"

namespace cnnext::device {

inline constexpr int kSharedAlignment =
    128;  // a whole row of banks; enough for every vector access and bulk copy
inline constexpr int kMaxStaticSharedBytes = 48 * 1024;

template <class T>
CNNEXT_DEVICE T& dynamic_shared() {
  static_assert(alignof(T) <= kSharedAlignment, "dynamic shared memory is aligned to 128 bytes");
#if defined(CNNEXT_EMULATED)
  return *static_cast<T*>(emulator::dynamic_shared());
#else
  extern __shared__ __align__(128) unsigned char cnnext_dynamic_shared[];
  return *reinterpret_cast<T*>(cnnext_dynamic_shared);
#endif
}

template <class T>
CNNEXT_DEVICE T& static_shared() {
  static_assert(sizeof(T) <= kMaxStaticSharedBytes, "a block has at most 48 KiB of static shared memory");
  static_assert(alignof(T) <= kSharedAlignment, "static shared memory is aligned to 128 bytes");
#if defined(CNNEXT_EMULATED)
  static const char key = 0;
  return *static_cast<T*>(emulator::static_shared(&key, sizeof(T), kSharedAlignment));
#else
  __shared__ __align__(128) unsigned char storage[sizeof(T)];
  return *reinterpret_cast<T*>(storage);
#endif
}

}  // namespace cnnext::device
