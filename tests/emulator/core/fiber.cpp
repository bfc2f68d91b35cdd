#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(EMULATOR_FIBER_UCONTEXT)
// void emulator_switch(void** save, void* load): the callee-saved registers of the System V ABI go to the old
// stack and come from the new one. 28 million switches a second, where swapcontext, which asks the kernel for
// the signal mask, makes 5 million.
extern "C" void emulator_switch(void** save, void* load);
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch, . - emulator_switch
)");
#endif

namespace emulator {
namespace {

constexpr size_t kPageBytes = 4096;

#if defined(__SANITIZE_ADDRESS__)
const void* main_stack = nullptr;
size_t main_stack_bytes = 0;
#endif

char* allocate_stack() {
  // The page below the stack stays closed: an overflow faults instead of running into the neighbour.
  void* pages = mmap(nullptr, kFiberStackBytes + kPageBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED || mprotect(pages, kPageBytes, PROT_NONE) != 0) {
    throw std::bad_alloc();
  }
  return static_cast<char*>(pages) + kPageBytes;
}

}  // namespace

void prepare_fiber(Fiber& fiber, void (*entry)()) {
  if (fiber.stack == nullptr) {
    fiber.stack = allocate_stack();
  }
#if defined(__SANITIZE_ADDRESS__)
  // A block that faulted left its frames, and their red zones, on the stack.
  ASAN_UNPOISON_MEMORY_REGION(fiber.stack, kFiberStackBytes);
  fiber.sanitizer_stack = nullptr;
#endif
#if defined(EMULATOR_FIBER_UCONTEXT)
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = kFiberStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
#else
  auto* top = reinterpret_cast<uintptr_t*>(fiber.stack + kFiberStackBytes);
  *--top = 0;  // entry's return address: an unwinder stops here, and the stack is aligned as after a call
  *--top = reinterpret_cast<uintptr_t>(entry);
  for (int saved_register = 0; saved_register < 6; ++saved_register) {
    *--top = 0;
  }
  fiber.stack_pointer = top;
#endif
}

void switch_fiber(Fiber& from, Fiber& to, bool ends) {
#if defined(__SANITIZE_ADDRESS__)
  const bool to_main = to.stack == nullptr;
  __sanitizer_start_switch_fiber(ends ? nullptr : &from.sanitizer_stack, to_main ? main_stack : to.stack,
                                 to_main ? main_stack_bytes : kFiberStackBytes);
#endif
#if defined(EMULATOR_FIBER_UCONTEXT)
  swapcontext(&from.context, &to.context);
#else
  emulator_switch(&from.stack_pointer, to.stack_pointer);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.sanitizer_stack, nullptr, nullptr);
#endif
  (void)ends;
}

void fiber_started() {
#if defined(__SANITIZE_ADDRESS__)
  const void* previous_stack = nullptr;
  size_t previous_bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &previous_stack, &previous_bytes);
  // The first fiber of a block is entered from the caller's stack; the others from fibers.
  if (previous_bytes != kFiberStackBytes) {
    main_stack = previous_stack;
    main_stack_bytes = previous_bytes;
  }
#endif
}

}  // namespace emulator
