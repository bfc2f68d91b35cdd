// The only place that launches a kernel.
//
//   launch({"max_pool2d_forward_kernel", grid, block, 0, stream}, {input("x", x, x_count), output("y", y,
//   y_count)},
//          [&] { return describe(shape); }, max_pool2d_forward_kernel<float>, shape, x, y);
//
// The list of memory is what the kernel may touch. On a device it costs a few stores; the emulator holds the
// kernel to it: no access outside, no write to an input, no read of an output before it was written, every
// output written.
#pragma once

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "device_limits.cuh"
#include "platform.cuh"

namespace cnnext::device {

enum class Use {  // the emulator counts them in this order too
  kInput,         // holds values, is not written
  kOutput,        // holds nothing before, is written everywhere by this launch
  kInOut,         // holds values, may be read and written
  kScratch,       // holds nothing before, may be written in part
};

struct Memory {
  const char* name;
  const void* data;  // null: an absent optional tensor
  size_t bytes;
  size_t element_bytes;
  Use use;
};

// `count` elements from `data` on, gaps between strides included.
template <class T>
Memory input(const char* name, const T* data, int64_t count) {
  return {name, data, static_cast<size_t>(count) * sizeof(T), sizeof(T), Use::kInput};
}
template <class T>
Memory output(const char* name, T* data, int64_t count) {
  return {name, data, static_cast<size_t>(count) * sizeof(T), sizeof(T), Use::kOutput};
}
template <class T>
Memory inout(const char* name, T* data, int64_t count) {
  return {name, data, static_cast<size_t>(count) * sizeof(T), sizeof(T), Use::kInOut};
}
template <class T>
Memory scratch(const char* name, T* data, int64_t count) {
  return {name, data, static_cast<size_t>(count) * sizeof(T), sizeof(T), Use::kScratch};
}

struct LaunchConfig {
  const char* kernel;  // its name, for messages and counters
  dim3 grid;
  dim3 block;
  size_t dynamic_shared_bytes = 0;
  cudaStream_t stream = nullptr;
  double flops = 0;  // useful arithmetic, multiplications and additions counted one each; 0: not said
};

inline std::string describe_config(const LaunchConfig& config) {
  const auto triple = [](dim3 d) {
    return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")";
  };
  return std::string(config.kernel) + " with grid " + triple(config.grid) + ", block " +
         triple(config.block) + ", " + std::to_string(config.dynamic_shared_bytes) +
         " bytes of dynamic shared memory";
}

#if defined(CNNEXT_EMULATED)

template <class Describe, class... Parameters, class... Arguments>
void launch(const LaunchConfig& config, std::initializer_list<Memory> memory, const Describe& describe,
            void (*kernel)(Parameters...), Arguments&&... arguments) {
  std::vector<emulator::Memory> emulated_memory;
  for (const Memory& m : memory) {
    emulated_memory.push_back({m.name, m.data, m.bytes, m.element_bytes, static_cast<emulator::Use>(m.use)});
  }
  using Call = emulator::KernelCall<Parameters...>;
  Call call{kernel, {static_cast<Parameters>(std::forward<Arguments>(arguments))...}};
  emulator::Launch launch{};
  launch.kernel = config.kernel;
  launch.function = reinterpret_cast<const void*>(kernel);
  launch.traced = emulator::kTracedCode;
  launch.grid = config.grid;
  launch.block = config.block;
  launch.dynamic_shared_bytes = config.dynamic_shared_bytes;
  launch.shared_bytes_limit = current_device_limits().shared_bytes_per_block;
  launch.memory = emulated_memory.data();
  launch.memory_count = static_cast<int>(memory.size());
  launch.flops = config.flops;
  const auto text = [&] { return describe_config(config) + ", " + describe(); };
  launch.describe = [](const void* context) { return (*static_cast<decltype(text)*>(context))(); };
  launch.describe_context = &text;
  launch.body = &Call::invoke;
  launch.arguments = &call;
  launch.argument_bytes = sizeof(call);
  emulator::run(launch);
}

#else

class LaunchError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What the user can do about it, where there is something.
inline const char* launch_advice(cudaError_t error) {
  switch (error) {
    case cudaErrorNoKernelImageForDevice:
      return ". The library holds no code for this device's architecture: build it again with "
             "TORCH_CUDA_ARCH_LIST "
             "naming the device's compute capability (7.5 or newer)";
    case cudaErrorInsufficientDriver:
    case cudaErrorUnsupportedPtxVersion:
      return ". The driver is older than the CUDA toolkit this library was built with: update the driver, or "
             "build "
             "the library with an older toolkit";
    case cudaErrorLaunchOutOfResources:
      return ". The block asks for more registers or shared memory than the device has";
    default:
      return "";
  }
}

template <class Describe>
void check_launch(cudaError_t error, const LaunchConfig& config, const Describe& describe) {
  if (error == cudaSuccess) {
    return;
  }
  cudaGetLastError();  // a launch error stays in place until read and would be blamed on the next launch
  throw LaunchError("launch of " + describe_config(config) + ", " + describe() + " failed: " +
                    cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")" + launch_advice(error));
}

template <class Describe, class... Parameters, class... Arguments>
void launch(const LaunchConfig& config, std::initializer_list<Memory>, const Describe& describe,
            void (*kernel)(Parameters...), Arguments&&... arguments) {
  constexpr size_t kDefaultSharedBytes = 48 * 1024;  // more must be asked for, kernel by kernel
  if (config.dynamic_shared_bytes > kDefaultSharedBytes) {
    check_launch(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(config.dynamic_shared_bytes)),
                 config, describe);
  }
  cudaLaunchConfig_t native{};
  native.gridDim = config.grid;
  native.blockDim = config.block;
  native.dynamicSmemBytes = config.dynamic_shared_bytes;
  native.stream = config.stream;
  check_launch(
      cudaLaunchKernelEx(&native, kernel, static_cast<Parameters>(std::forward<Arguments>(arguments))...),
      config, describe);
}

#endif

}  // namespace cnnext::device
