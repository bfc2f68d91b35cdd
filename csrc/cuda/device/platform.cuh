// Which compiler reads this: nvcc, or a host compiler with the CUDA emulator in its include path. The only
// header that tells them apart by include; the others test CNNEXT_EMULATED where a PTX instruction needs its
// C++ twin.
//
// CNNEXT_ARCH is the architecture the code is made for, 750 … 1200 as __CUDA_ARCH__ has it, and 0 in nvcc's
// host pass.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#if defined(__CUDA_ARCH__)
#define CNNEXT_ARCH __CUDA_ARCH__
static_assert(CNNEXT_ARCH >= 750, "the kernels need compute capability 7.5 or newer");
#else
#define CNNEXT_ARCH 0
#endif
#else
#define CNNEXT_EMULATED 1
#include <emulator/cuda.h>
#if defined(CNNEXT_EMULATED_ARCH)
#define CNNEXT_ARCH CNNEXT_EMULATED_ARCH
#else
#define CNNEXT_ARCH 800
#endif
#endif

#define CNNEXT_DEVICE __device__ __forceinline__

namespace cnnext::device {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kFullWarp = 0xffffffffu;

#if !defined(CNNEXT_EMULATED)
// The 32-bit address in the shared window that PTX instructions on shared memory take.
CNNEXT_DEVICE uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
#endif

}  // namespace cnnext::device
