// The main loop of all tensor-core convolutions: stages are filled ahead, the oldest is multiplied.
#pragma once

#include <type_traits>

#include "conv2d_tensor_core_compute.cuh"
#include "device/cp_async.cuh"

namespace cnnext::tensor_core {

// Whether this architecture has the kernel: tensor cores of sm_75 know fp16 only.
template <class Config, class T>
inline constexpr bool kArchitectureHas =
    kHasAsyncCopy || (std::is_same_v<T, __half> && !Config::kNeedsAsyncCopy);

// Sums `steps` stages into d. `loader.fetch` starts the copies of the next step, `land` writes what it
// brought to registers; `describe` prepares kDescribed steps at once. The stage that is filled in a step was
// multiplied in the step before; the barrier between them has been passed by all.
template <class Config, class T, bool kBIsRounded, class Loader, class ReaderA, class ReaderB>
CNNEXT_DEVICE void accumulate(Accumulators<Config>& d, Loader& loader, const ReaderA& reader_a,
                              const ReaderB& reader_b, char* stages, int steps) {
  constexpr int kStages = Config::stages(kHasAsyncCopy), kAhead = kStages - 1;
  constexpr int kAllBytes = kStages * Config::kStageBytes;
#pragma unroll 1
  for (int ahead = 0; ahead < kAhead; ++ahead) {
    if (ahead < steps) {
      loader.fetch(stages + ahead * Config::kStageBytes);
      loader.land(stages + ahead * Config::kStageBytes);
    }
    device::cp_async_commit();
    __syncthreads();
  }
  int read = 0, write = kAhead * Config::kStageBytes;
#pragma unroll 1
  for (int left = steps; left > 0;) {
    loader.describe();  // of the kDescribed steps behind the next ones
    const int last = Loader::kDescribed == kEveryStep ? 0 : larger(left - Loader::kDescribed, 0);
#pragma unroll 1
    for (; left > last; --left) {
      device::cp_async_wait<kAhead - 1>();
      __syncthreads();
      const bool more = left > kAhead;
      if (more) loader.fetch(stages + write);
      device::cp_async_commit();
      const char* tile_a = stages + read;
      multiply_stage<Config, T, kBIsRounded>(d, reader_a, reader_b, tile_a,
                                             tile_a + Config::kTileM * Config::kRowBytes);
      if (more) loader.land(stages + write);
      write = read;
      read = read + Config::kStageBytes == kAllBytes ? 0 : read + Config::kStageBytes;
    }
  }
  device::cp_async_wait<0>();
  __syncthreads();
}

}  // namespace cnnext::tensor_core
