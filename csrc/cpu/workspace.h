// Scratch memory of a kernel: one buffer per thread, aligned to a cache line, kept between calls.
//
// It is the one allocation that outlives a call. A training step asks for the same sizes again and again, and
// fresh pages cost more than the work on them: the first touch runs at about a fifth of the copy bandwidth.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "../common/poison.h"

namespace cnnext {

class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { std::free(memory_); }

  // At least `bytes` bytes with unspecified content; what an earlier call returned is gone.
  void* reserve(size_t bytes) {
    if (bytes > capacity_) {
      std::free(memory_);
      capacity_ = 0;
      memory_ = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
      if (!memory_) throw std::bad_alloc();
      capacity_ = bytes;
    }
    if (poison_requested()) std::memset(memory_, kPoison, bytes);
    return memory_;
  }

  static constexpr size_t kAlignment = 64;

 private:
  void* memory_ = nullptr;
  size_t capacity_ = 0;
};

// The calling thread's workspace, for `count` values of T.
template <typename T>
T* workspace(int64_t count) {
  static thread_local Workspace buffer;
  return static_cast<T*>(buffer.reserve(static_cast<size_t>(count) * sizeof(T)));
}

}  // namespace cnnext
