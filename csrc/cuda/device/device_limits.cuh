// What a launcher must know of the current device to choose a config. Kept apart from the choice, which is a
// pure function of a shape and these numbers.
#pragma once

#include "platform.cuh"

namespace cnnext::device {

struct DeviceLimits {
  int architecture;  // 75, 80, 86, …
  int multiprocessors;
  int shared_bytes_per_block;  // the most dynamic shared memory a launch can ask for
};

// The opt-in limit of shared memory for a block, CUDA C++ Programming Guide, "Technical specifications per
// compute capability".
constexpr int shared_bytes_per_block(int architecture) {
  switch (architecture) {
    case 75:
      return 64 * 1024;
    case 80:
    case 87:
      return 163 * 1024;
    case 86:
    case 89:
    case 120:
    case 121:
      return 99 * 1024;
    default:
      return architecture >= 90 ? 227 * 1024 : 48 * 1024;
  }
}

#if defined(CNNEXT_EMULATED)
inline DeviceLimits current_device_limits() {
  // As many multiprocessors as the smallest card of the family, so that small shapes fill several waves.
  constexpr int kArchitecture = CNNEXT_ARCH / 10;
  return {kArchitecture, 16, shared_bytes_per_block(kArchitecture)};
}
#else
// Reads four attributes, no device synchronisation.
inline DeviceLimits current_device_limits() {
  int device = 0, major = 0, minor = 0;
  DeviceLimits limits{};
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  cudaDeviceGetAttribute(&limits.multiprocessors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&limits.shared_bytes_per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  limits.architecture = 10 * major + minor;
  return limits;
}
#endif

}  // namespace cnnext::device
