// What happens to an accumulator on its way out of a convolution, for every algorithm:
//   v = acc + bias[k]        kBias
//   v = v + residual[offset] kResidual, a tensor in the layout of the output
//   v = max(v, 0)            kRelu, where `relu` is true; NaN stays
//   y[offset] = v, rounded to T
//   Σ (y − shift[k]) and Σ (y − shift[k])² per channel and block, kStatistics
//
// The statistics are of the rounded value, which is what a batch norm behind the convolution would read. They
// are shifted so that the squares of a channel far from zero do not cancel; every block writes sums of its
// own and the order of addition is fixed, so the bits are the same in every run.
//
// A step that is not in the flags costs nothing. One that is may still be absent: then its pointer is null.
#pragma once

#include "device/convert.cuh"
#include "device/vec_load.cuh"
#include "device/warp.cuh"

namespace cnnext {

enum EpilogueSteps : unsigned { kBias = 1, kResidual = 2, kRelu = 4, kStatistics = 8 };

template <class T, unsigned kSteps>
struct Epilogue {
  using Storage = T;
  using C = compute_t<T>;
  static constexpr bool kHasStatistics = (kSteps & kStatistics) != 0;

  const T* bias = nullptr;      // [k]
  const T* residual = nullptr;  // as the output
  const C* shift = nullptr;     // [k]
  C* sums = nullptr;            // [blocks of pixels][2][k]
  int64_t channels = 0;         // k, of all groups
  bool relu = false;

  // The value to be stored for output channel k at `offset` of the output.
  CNNEXT_DEVICE T apply(C acc, int64_t k, int64_t offset) const {
    if constexpr ((kSteps & kBias) != 0) {
      if (bias != nullptr) acc += device::to_compute(bias[k]);
    }
    if constexpr ((kSteps & kResidual) != 0) {
      if (residual != nullptr) acc += device::to_compute(residual[offset]);
    }
    if constexpr ((kSteps & kRelu) != 0) acc = relu && acc < C(0) ? C(0) : acc;
    return device::from_compute<T>(acc);
  }

  // N values side by side in memory: channels k … k + N − 1 of a pixel (NHWC), or pixels of channel k (NCHW).
  // bias + k and the residual must be aligned to the vector.
  template <bool kAlongChannels, int N>
  CNNEXT_DEVICE device::Vector<T, N> apply(const C (&acc)[N], int64_t k, int64_t offset) const {
    device::Vector<T, N> b{}, rest{};
    bool add_bias = false, add_rest = false;
    if constexpr ((kSteps & kBias) != 0) {
      add_bias = bias != nullptr;
      if (kAlongChannels && add_bias) b = device::load_vector<N>(bias + k);
      if (!kAlongChannels && add_bias) b[0] = bias[k];
    }
    if constexpr ((kSteps & kResidual) != 0) {
      add_rest = residual != nullptr;
      if (add_rest) rest = device::load_vector<N>(residual + offset);
    }
    device::Vector<T, N> result;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      C value = acc[i];
      if (add_bias) value += device::to_compute(b[kAlongChannels ? i : 0]);
      if (add_rest) value += device::to_compute(rest[i]);
      if constexpr ((kSteps & kRelu) != 0) value = relu && value < C(0) ? C(0) : value;
      result[i] = device::from_compute<T>(value);
    }
    return result;
  }

  CNNEXT_DEVICE C shift_of(int64_t k) const { return shift == nullptr ? C(0) : shift[k]; }
};

// What the launchers of all algorithms take.
template <class T>
using Conv2dEpilogue = Epilogue<T, kBias | kResidual | kRelu>;

// The sums of one thread over its pixels, for its kChannels channels.
template <class C, int kChannels>
struct ChannelSums {
  C sum[kChannels] = {}, square[kChannels] = {};

  CNNEXT_DEVICE void add(int channel, C shifted) {
    sum[channel] += shifted;
    square[channel] += shifted * shifted;
  }

  // Adds up the lanes that differ in the bits [kFirst, kEnd) of their number and hold the same channels.
  template <int kFirst, int kEnd>
  CNNEXT_DEVICE void add_lanes() {
#pragma unroll
    for (int bit = kFirst; bit < kEnd; ++bit) {
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        sum[i] += __shfl_xor_sync(device::kFullWarp, sum[i], 1 << bit);
        square[i] += __shfl_xor_sync(device::kFullWarp, square[i], 1 << bit);
      }
    }
  }
};

// Sums of the warps of a block that share channels meet in shared memory: [warp][2][channel of the tile].
template <class C, int kWarpsM, int kTileN>
struct StatisticsStorage {
  C partial[kWarpsM][2][kTileN];
};

// Adds the warps' partial sums and writes those of the block: row `pixel_block` of Epilogue::sums, channels
// [k0, k0 + count). All threads of the block call, behind the stores to `storage` and before its next use.
template <int kThreads, class C, int kWarpsM, int kTileN, class E>
CNNEXT_DEVICE void store_statistics(const StatisticsStorage<C, kWarpsM, kTileN>& storage, const E& epilogue,
                                    int64_t pixel_block, int64_t k0, int count) {
  __syncthreads();
  for (int i = device::thread_in_block(); i < 2 * kTileN; i += kThreads) {
    const int which = i / kTileN, channel = i % kTileN;
    if (channel >= count) continue;
    C total = 0;
#pragma unroll
    for (int warp = 0; warp < kWarpsM; ++warp) total += storage.partial[warp][which][channel];
    epilogue.sums[(2 * pixel_block + which) * epilogue.channels + k0 + channel] = total;
  }
}

}  // namespace cnnext
