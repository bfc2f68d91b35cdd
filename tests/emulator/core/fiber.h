// Fibers: one for each CUDA thread of a block, switched cooperatively.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) || defined(CNNEXT_EMULATOR_UCONTEXT)
#define EMULATOR_FIBER_UCONTEXT 1
#include <ucontext.h>
#endif

namespace emulator {

struct Fiber {
  char* stack = nullptr;  // lowest address; null for the main fiber, which is the caller of run()
#if defined(EMULATOR_FIBER_UCONTEXT)
  ucontext_t context{};
#else
  void* stack_pointer = nullptr;
#endif
  void* sanitizer_stack = nullptr;  // AddressSanitizer's own record of the fiber
};

// Room for -O0 frames under AddressSanitizer; untouched pages cost nothing.
inline constexpr size_t kFiberStackBytes = 256 * 1024;

// Makes `fiber` start at `entry`, which never returns, when it is next switched to. The stack is kept for
// reuse.
void prepare_fiber(Fiber& fiber, void (*entry)());

// `ends`: `from` will not be switched back to.
void switch_fiber(Fiber& from, Fiber& to, bool ends);

// Must be the first thing a fiber does.
void fiber_started();

}  // namespace emulator
