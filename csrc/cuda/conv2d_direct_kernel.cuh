// conv2d straight from its formula: forward and input gradient.
//   y[n, k, p, q] = epilogue(Σ_{c,r,s} x[n, c, p·stride − pad + r·dil, …] · weight[k, c, r, s])
// Layout: images NCHW or NHWC, weights in either. Offsets are 64 bits: it runs what nothing else can.
// Idea: neighbouring lanes take neighbouring values, pixels of a plane in NCHW and channels of a pixel in
// NHWC. In NCHW a thread has kChannels output channels, for which it reads its window once; in NHWC it has
// kPixels pixels, and the block's weights, which lie far apart for its lanes, come from shared memory. It is
// for groups of few channels, depthwise above all, where a GEMM's tile stays empty. The input gradient is the
// same sum over the taps of a pixel's phase (conv2d_layout.cuh). Limits: no side of an image or kernel,
// padding included, of 2^30 or more.
#pragma once

#include "conv2d_direct_window.cuh"
#include "conv2d_epilogue.cuh"
#include "conv2d_prologue.cuh"
#include "device/launch.cuh"
#include "device/shared_memory.cuh"

namespace cnnext::direct {

inline constexpr int kThreads = 256;
inline constexpr int kChannels = 4;     // of a thread in NCHW
inline constexpr int kPixels = 4;       // of a thread in NHWC
inline constexpr int kMostStaged = 64;  // products of an output whose weights go through shared memory

// One output channel's weights: of (c, r, s) at c·in + r·row + s·col.
template <class T>
struct WeightRow {
  const T* first;
  int64_t in, row, col;

  CNNEXT_DEVICE compute_t<T> operator()(int c, int r, int s) const {
    return device::to_compute(first[c * in + r * row + s * col]);
  }
};

// The same from shared memory, [product][channel].
template <class C>
struct StagedWeightRow {
  const C* first;
  int pitch, r, s;

  CNNEXT_DEVICE C operator()(int c, int tap_r, int tap_s) const {
    return first[((c * r + tap_r) * s + tap_s) * pitch];
  }
};

// kCount sums of one pixel, whose group's first source channel is `channel`. A channel of the source is added
// up on its own first: the error grows with r·s + c and not with their product.
template <int kCount, class T, class Row>
CNNEXT_DEVICE void add_window(const GatherProblem& problem, const Window& rows, const Window& cols,
                              const T* source, const Row (&weight)[kCount], const Conv2dPrologue<T>& prologue,
                              int64_t channel, compute_t<T> (&sums)[kCount]) {
  using C = compute_t<T>;
  const int64_t step = cols.increment * problem.source.w;
  for (int c = 0; c < problem.in; ++c) {
    C channel_sums[kCount] = {};
    ChannelNorm<C> norm{};
    if (prologue.exists()) norm = prologue.of(channel + c);
    for (int t = 0; t < rows.taps; ++t) {
      const int h = rows.source + t * rows.increment, tap_r = rows.tap + t * rows.tap_step;
      if (static_cast<unsigned>(h) >= static_cast<unsigned>(problem.rows.source)) continue;
      const T* from = source + c * problem.source.c + h * problem.source.h + cols.source * problem.source.w;
      for (int u = 0; u < cols.taps; ++u, from += step) {
        const int w = cols.source + u * cols.increment, tap_s = cols.tap + u * cols.tap_step;
        if (static_cast<unsigned>(w) >= static_cast<unsigned>(problem.cols.source)) continue;
        const C value = device::to_compute(prologue.exists() ? norm.activated(*from) : *from);
#pragma unroll
        for (int j = 0; j < kCount; ++j) channel_sums[j] += value * weight[j](c, tap_r, tap_s);
      }
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) sums[j] += channel_sums[j];
  }
}

// NCHW. Thread: one pixel, kChannels output channels of a group; those behind the last repeat it.
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    conv2d_gather_direct_nchw_kernel(const GatherProblem problem, const T* source, const T* weight,
                                     const Conv2dPrologue<T> prologue, const Conv2dEpilogue<T> epilogue,
                                     T* destination) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= problem.pixels * problem.channel_blocks) return;
  const int64_t plane = int64_t{problem.rows.size} * problem.cols.size;
  const auto [outer, pixel] = divide(index, plane, problem.narrow);
  const auto [image, block] = divide(outer, problem.channel_blocks, problem.narrow);
  const auto [i, j] = divide(pixel, problem.cols.size, problem.narrow);
  const int blocks = ceil_div(problem.out, kChannels), group = static_cast<int>(block) / blocks;
  const int first = static_cast<int>(block) % blocks * kChannels;
  const Window rows(problem.rows, static_cast<int>(i)), cols(problem.cols, static_cast<int>(j));

  WeightRow<T> taps[kChannels];
#pragma unroll
  for (int channel = 0; channel < kChannels; ++channel) {
    const int out = smaller(first + channel, problem.out - 1);
    taps[channel] = {weight + group * problem.weight_group + out * problem.weight_out, problem.weight_in,
                     problem.weight_r, problem.weight_s};
  }
  compute_t<T> sums[kChannels] = {};
  add_window(problem, rows, cols,
             source + image * problem.source.n + int64_t{group} * problem.in * problem.source.c, taps,
             prologue, int64_t{group} * problem.in, sums);
#pragma unroll
  for (int channel = 0; channel < kChannels; ++channel) {
    if (first + channel >= problem.out) continue;
    const int64_t k = int64_t{group} * problem.out + first + channel;
    const int64_t offset = image * problem.destination.n + k * problem.destination.c + pixel;
    destination[offset] = epilogue.apply(sums[channel], k, offset);
  }
}

// Pitch of a row of them, so that lanes that write the products of one channel and then of the next meet in
// few banks.
CNNEXT_DEVICE int staged_pitch(int products) { return kLastChannels + ceil_div(32, products); }

template <class C>
struct StagedWeights {
  C value[kMostStaged * (kLastChannels + 1)];  // room for every pitch: the fewer the products, the wider
};

// The weights of the channels [k0, k0 + problem.lane_channels) to shared memory: read side by side along a
// channel.
template <class T>
CNNEXT_DEVICE void stage_weights(const GatherProblem& problem, const T* weight, int64_t k0,
                                 StagedWeights<compute_t<T>>& staged) {
  const int products = problem.in * problem.rows.kernel * problem.cols.kernel;
  for (int i = static_cast<int>(threadIdx.x); i < products * problem.lane_channels; i += kThreads) {
    const int channel = i / products, product = i % products;
    const int64_t k = k0 + channel;
    if (k >= int64_t{problem.groups} * problem.out) break;
    const int s = product % problem.cols.kernel, line = product / problem.cols.kernel;
    const int64_t offset = k / problem.out * problem.weight_group + k % problem.out * problem.weight_out +
                           line / problem.rows.kernel * problem.weight_in +
                           line % problem.rows.kernel * problem.weight_r + s * problem.weight_s;
    staged.value[product * staged_pitch(products) + channel] = device::to_compute(weight[offset]);
  }
}

// NHWC. Block: lane_channels output channels, a power of two, times pixels; a thread takes every so many of
// them.
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    conv2d_gather_direct_nhwc_kernel(const GatherProblem problem, const T* source, const T* weight,
                                     const Conv2dPrologue<T> prologue, const Conv2dEpilogue<T> epilogue,
                                     T* destination) {
  using C = compute_t<T>;
  const int64_t pixel_block = blockIdx.x / problem.channel_blocks;
  const int64_t k0 = blockIdx.x % problem.channel_blocks * problem.lane_channels;
  const int lane = static_cast<int>(threadIdx.x) % problem.lane_channels;
  const int slot = static_cast<int>(threadIdx.x) / problem.lane_channels,
            slots = kThreads / problem.lane_channels;
  const int products = problem.in * problem.rows.kernel * problem.cols.kernel;
  const bool is_staged = products <= kMostStaged;
  auto& staged = device::static_shared<StagedWeights<C>>();
  if (is_staged) stage_weights(problem, weight, k0, staged);
  __syncthreads();

  const int64_t k = k0 + lane;
  if (k >= int64_t{problem.groups} * problem.out) return;
  const auto [group, out] = divide(k, problem.out, true);
  const T* from = source + group * problem.in * problem.source.c;
  for (int turn = 0; turn < kPixels; ++turn) {
    const int64_t pixel = (pixel_block * kPixels + turn) * slots + slot;
    if (pixel >= problem.pixels) return;
    const auto [line, j] = divide(pixel, problem.cols.size, problem.narrow);
    const auto [image, i] = divide(line, problem.rows.size, problem.narrow);
    const Window rows(problem.rows, static_cast<int>(i)), cols(problem.cols, static_cast<int>(j));
    C sums[1] = {};
    if (is_staged) {
      const StagedWeightRow<C> taps[1] = {
          {staged.value + lane, staged_pitch(products), problem.rows.kernel, problem.cols.kernel}};
      add_window(problem, rows, cols, from + image * problem.source.n, taps, prologue, group * problem.in,
                 sums);
    } else {
      const WeightRow<T> taps[1] = {{weight + group * problem.weight_group + out * problem.weight_out,
                                     problem.weight_in, problem.weight_r, problem.weight_s}};
      add_window(problem, rows, cols, from + image * problem.source.n, taps, prologue, group * problem.in,
                 sums);
    }
    const int64_t offset = pixel * problem.destination.w + k;
    destination[offset] = epilogue.apply(sums[0], k, offset);
  }
}

}  // namespace cnnext::direct
