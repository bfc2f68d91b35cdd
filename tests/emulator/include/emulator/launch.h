// A launch: what device/launch.cuh hands to the emulator.
#pragma once

#include <emulator/qualifiers.h>
#include <vector_types.h>

#include <cstddef>
#include <string>
#include <tuple>

namespace emulator {

// What a launch does with a piece of global memory; in the order of cnnext::device::Use.
enum class Use { kInput, kOutput, kInOut, kScratch };

struct Memory {
  const char* name;
  const void* data;
  size_t bytes;
  size_t element_bytes;
  Use use;
};

// Whether this code is compiled with the hooks that tracing needs (see build.py).
#if defined(__SANITIZE_THREAD__)
static constexpr bool kTracedCode = true;
#else
static constexpr bool kTracedCode = false;
#endif

struct Launch {
  const char* kernel;
  const void* function;  // the kernel itself: one instantiation of a template
  bool traced;
  dim3 grid;
  dim3 block;
  size_t dynamic_shared_bytes;
  size_t shared_bytes_limit;  // what a block of the emulated device may ask for
  const Memory* memory;       // [memory_count] what the kernel may touch of global memory
  int memory_count;
  double flops;  // the useful arithmetic of the launch, as the launcher counts it; 0 if it does not say

  // Asked only when there is something to report.
  std::string (*describe)(const void* context);
  const void* describe_context;

  void (*body)(void* arguments);  // calls the kernel for the current thread
  void* arguments;                // [argument_bytes] readable by the kernel
  size_t argument_bytes;
};

// Runs the grid to its end, block by block. Throws emulator::Fault.
EMULATOR_API void run(const Launch& launch);

template <class... Parameters>
struct KernelCall {
  void (*kernel)(Parameters...);
  std::tuple<Parameters...> arguments;

  static void invoke(void* self) {
    auto& call = *static_cast<KernelCall*>(self);
    std::apply(call.kernel, call.arguments);
  }
};

}  // namespace emulator
