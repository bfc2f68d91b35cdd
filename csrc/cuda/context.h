// What the .cu file of an op needs besides its kernels: where it is registered, the device and stream of a
// call, and the dtype switch with the device's own 16-bit types.
//
// The same file is compiled twice: by nvcc, as the CUDA implementation of namespace cnnext, and by a host
// compiler for the emulator, as the CPU implementation of a namespace of its own (CNNEXT_NAMESPACE).
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include <string>
#include <type_traits>

#include "../torch/checks.h"
#include "../torch/dispatch.h"
#include "device/convert.cuh"
#include "device/launch.cuh"

// CNNEXT_CUDA_LIBRARY_IMPL(m) { m.impl("corr2d", TORCH_BOX(&corr2d)); }
#if defined(CNNEXT_EMULATED)
// torch makes a string of its macro's argument: CNNEXT_NAMESPACE is expanded on the way there.
#define CNNEXT_EXPANDED_LIBRARY_IMPL(name, m) STABLE_TORCH_LIBRARY_IMPL(name, CPU, m)
#define CNNEXT_CUDA_LIBRARY_IMPL(m) CNNEXT_EXPANDED_LIBRARY_IMPL(CNNEXT_NAMESPACE, m)
#else
#define CNNEXT_CUDA_LIBRARY_IMPL(m) STABLE_TORCH_LIBRARY_IMPL(cnnext, CUDA, m)
#endif

namespace cnnext {

// Makes the device of `tensor` the current one for the length of a scope, and knows torch's current stream
// there: launches on it are ordered with torch's own, and captured into CUDA graphs with them.
class CudaScope {
 public:
#if defined(CNNEXT_EMULATED)
  explicit CudaScope(const Tensor&) {}
  cudaStream_t stream() const { return nullptr; }
#else
  explicit CudaScope(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  cudaStream_t stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
#endif
};

// A kernel would read the other device's address as its own. (torch sends a call with a CUDA tensor among its
// arguments to the CUDA implementation, wherever the others are.)
inline void check_same_device(const Tensor& tensor, const char* name, const Tensor& other,
                              const char* other_name) {
  const bool on_cpu = tensor.is_cpu(), other_on_cpu = other.is_cpu();
  if (on_cpu && other_on_cpu) return;
  if (on_cpu == other_on_cpu && tensor.get_device_index() == other.get_device_index()) return;
  const auto place = [](const Tensor& t) {
    return t.is_cpu() ? std::string("cpu") : "cuda:" + std::to_string(t.get_device_index());
  };
  check(false, "expected `", name, "` and `", other_name, "` on one device, but got ", place(tensor), " and ",
        place(other));
}

// dispatch_floating (csrc/torch/dispatch.h) with __half and __nv_bfloat16 for the 16-bit dtypes.
template <typename Run>
auto dispatch_cuda_floating(const Tensor& tensor, const char* name, Run&& run) {
  return dispatch_floating(tensor, name, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (std::is_same_v<T, half_t>) {
      return run(Tag<__half>{});
    } else if constexpr (std::is_same_v<T, bfloat16_t>) {
      return run(Tag<__nv_bfloat16>{});
    } else {
      return run(tag);
    }
  });
}

}  // namespace cnnext
