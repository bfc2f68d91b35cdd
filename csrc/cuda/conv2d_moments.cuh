// The first step of a batch norm behind a convolution, taken while a block's tile is in registers: for every
// channel Σy and Σ(y − mean of the block)², of the values as they are rounded and stored.
//
// Two passes over the registers: a first sum gives a shift near the mean, and the sums of y − shift and of
// its square then lose no digits to a large mean. A kernel of batch_norm merges the blocks, always in the
// same order (Chan, Golub and LeVeque 1983).
#pragma once

#include <type_traits>

#include "batch_norm_exact_sum.cuh"
#include "conv2d_epilogue.cuh"
#include "device/warp.cuh"

namespace cnnext {

template <class C>
struct PlainSum {
  C value;

  CNNEXT_DEVICE void add(const PlainSum& other) { value += other.value; }
  CNNEXT_DEVICE double total() const { return static_cast<double>(value); }
};

// 16-bit values carry more noise than a sum in float loses, and double loses less.
template <class T>
using MomentSum = std::conditional_t<std::is_same_v<T, float>, ExactSum<float>, PlainSum<compute_t<T>>>;

// Sums of the warps of a block that share channels: of y, and of the distances from the shift and of their
// squares, [..][warp][channel of the tile].
template <class T, int kWarpsM, int kTileN>
struct MomentsStorage {
  using C = compute_t<T>;

  MomentSum<T> sum[3][kWarpsM][kTileN];
  C shift[kTileN];

  CNNEXT_DEVICE MomentSum<T> total(int which, int channel) const {
    MomentSum<T> value = sum[which][0][channel];
#pragma unroll
    for (int warp = 1; warp < kWarpsM; ++warp) value.add(sum[which][warp][channel]);
    return value;
  }
  // From the sums of y, behind a barrier as before the next one. It is finite, for x − ∞ would turn an
  // infinite mean into NaN.
  template <int kThreads>
  CNNEXT_DEVICE void find_shifts(int pixels) {
    for (int channel = device::thread_in_block(); channel < kTileN; channel += kThreads) {
      const C mean = total(0, channel).value / static_cast<C>(pixels);
      shift[channel] = mean - mean == 0 ? mean : C(0);
    }
    __syncthreads();
  }
};

// The sum of N values as a tree, so that they take few roundings with them.
template <int N, class C>
CNNEXT_DEVICE C tree_sum(C (&values)[N]) {
  static_assert((N & (N - 1)) == 0, "every level halves the values");
#pragma unroll
  for (int half = N / 2; half > 0; half /= 2) {
#pragma unroll
    for (int i = 0; i < half; ++i) values[i] += values[i + half];
  }
  return values[0];
}

// The sum over the lanes that differ in the bits [kFirst, kEnd) of their number, in each of them.
template <class T, int kFirst, int kEnd>
CNNEXT_DEVICE MomentSum<T> sum_of_lanes(compute_t<T> value) {
  MomentSum<T> sum{};
  sum.value = value;
#pragma unroll
  for (int bit = kFirst; bit < kEnd; ++bit) {
    MomentSum<T> other = sum;
    other.value = __shfl_xor_sync(device::kFullWarp, sum.value, 1 << bit);
    if constexpr (std::is_same_v<T, float>) {
      other.lost = __shfl_xor_sync(device::kFullWarp, sum.lost, 1 << bit);
    }
    sum.add(other);
  }
  return sum;
}

// Writes what the threads have put into `storage`, of a block of `pixels` pixels: row `pixel_block` of
// Conv2dEpilogue::moments, channels [k0, k0 + count). All threads of the block call, behind a barrier.
template <int kThreads, class T, int kWarpsM, int kTileN>
CNNEXT_DEVICE void store_moments(const MomentsStorage<T, kWarpsM, kTileN>& storage,
                                 const Conv2dEpilogue<T>& epilogue, int pixels, int64_t pixel_block,
                                 int64_t k0, int count) {
  const double n = static_cast<double>(pixels);
  double* const row = epilogue.moments + 2 * pixel_block * epilogue.channels + k0;
  for (int channel = device::thread_in_block(); channel < smaller(count, kTileN); channel += kThreads) {
    const double sum = storage.total(1, channel).total();
    row[channel] = n * static_cast<double>(storage.shift[channel]) + sum;
    row[epilogue.channels + channel] = storage.total(2, channel).total() - sum * sum / n;
  }
}

}  // namespace cnnext
