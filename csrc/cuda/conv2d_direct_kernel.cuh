// conv2d straight from its formula: forward and input gradient.
//   y[n, k, p, q] = epilogue(Σ_{c,r,s} x[n, c, p·stride − pad + r·dil, …] · weight[k, c, r, s])
// Layout: images NCHW or NHWC, weights in either. All indices are 64 bits: it runs what nothing else can.
// Idea: one thread for each pixel, lanes along the pixels of a plane in NCHW and along the channels of a
// pixel in NHWC, so that neighbours read and write neighbours. In NCHW a thread has kChannels output
// channels, for which it reads its window once. It is for groups of few channels, depthwise above all, where
// a GEMM's tile stays empty. The input gradient is the same sum over the taps of a pixel's phase
// (conv2d_layout.cuh).
#pragma once

#include "conv2d_epilogue.cuh"
#include "conv2d_layout.cuh"
#include "device/launch.cuh"

namespace cnnext::direct {

inline constexpr int kThreads = 256;
inline constexpr int kChannels = 4;  // of a thread in NCHW

struct GatherProblem {
  int64_t images, groups, in, out;  // channels of a group of source and destination
  int64_t source_h, source_w, height, width;
  ImageStrides source, destination;
  int64_t weight_group, weight_out, weight_in, weight_r, weight_s;
  bool backward;
  int64_t r, s, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w;
};

// The taps that destination row or column i meets, and where: AxisPhase with i itself put in.
struct Window {
  int64_t taps, tap, tap_step, source, increment;

  CNNEXT_DEVICE Window(bool backward, int64_t i, int64_t size, int64_t kernel, int64_t stride, int64_t pad,
                       int64_t dil) {
    if (!backward || stride == 1) {
      taps = kernel, tap = 0, tap_step = 1;
      source = backward ? i + pad : i * stride - pad;
      increment = backward ? -dil : dil;
      return;
    }
    const AxisPhase phase = backward_input_axis(size, kernel, stride, pad, dil, i % stride);
    taps = phase.taps, tap = phase.tap, tap_step = phase.tap_step;
    source = i / stride * phase.step + phase.base, increment = phase.increment;
  }
};

// kCount sums of one pixel, for channels that lie problem.weight_out apart in the weight. A channel of the
// source is added up on its own first: the error grows with r·s + c and not with their product.
template <int kCount, class T>
CNNEXT_DEVICE void add_window(const GatherProblem& problem, const Window& rows, const Window& cols,
                              const T* source, const T* weight, int count, compute_t<T> (&sums)[kCount]) {
  using C = compute_t<T>;
  for (int64_t c = 0; c < problem.in; ++c) {
    C channel_sums[kCount] = {};
    for (int64_t t = 0; t < rows.taps; ++t) {
      const int64_t h = rows.source + t * rows.increment;
      if (h < 0 || h >= problem.source_h) continue;
      const T* taps = weight + c * problem.weight_in + (rows.tap + t * rows.tap_step) * problem.weight_r;
      const T* line = source + c * problem.source.c + h * problem.source.h;
      for (int64_t u = 0; u < cols.taps; ++u) {
        const int64_t w = cols.source + u * cols.increment;
        if (w < 0 || w >= problem.source_w) continue;
        const C value = device::to_compute(line[w * problem.source.w]);
        const T* tap = taps + (cols.tap + u * cols.tap_step) * problem.weight_s;
#pragma unroll
        for (int j = 0; j < kCount; ++j) {
          if (j < count) channel_sums[j] += value * device::to_compute(tap[j * problem.weight_out]);
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) sums[j] += channel_sums[j];
  }
}

// kCount is kChannels for NCHW and 1 for NHWC.
template <class T, int kCount, class E>
__global__ void __launch_bounds__(kThreads)
    conv2d_gather_direct_kernel(const GatherProblem problem, const T* source, const T* weight,
                                const E epilogue, T* destination) {
  const int64_t plane = problem.height * problem.width, index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t channel_blocks = ceil_div<int64_t>(problem.out, kCount),
                channels = problem.groups * channel_blocks;
  if (index >= problem.images * channels * plane) return;
  int64_t image, block, pixel;
  if constexpr (kCount == 1) {
    block = index % channels, pixel = index / channels % plane, image = index / channels / plane;
  } else {
    pixel = index % plane, block = index / plane % channels, image = index / plane / channels;
  }
  const int64_t group = block / channel_blocks, first = block % channel_blocks * kCount;
  const int64_t i = pixel / problem.width, j = pixel % problem.width;
  const Window rows(problem.backward, i, problem.height, problem.r, problem.stride_h, problem.pad_h,
                    problem.dil_h);
  const Window cols(problem.backward, j, problem.width, problem.s, problem.stride_w, problem.pad_w,
                    problem.dil_w);
  const int count = static_cast<int>(smaller<int64_t>(kCount, problem.out - first));

  compute_t<T> sums[kCount] = {};
  add_window(problem, rows, cols, source + image * problem.source.n + group * problem.in * problem.source.c,
             weight + group * problem.weight_group + first * problem.weight_out, count, sums);
#pragma unroll
  for (int channel = 0; channel < kCount; ++channel) {
    if (channel >= count) continue;
    const int64_t k = group * problem.out + first + channel;
    const int64_t offset = image * problem.destination.n + k * problem.destination.c +
                           i * problem.destination.h + j * problem.destination.w;
    destination[offset] = epilogue.apply(sums[channel], k, offset);
  }
}

}  // namespace cnnext::direct
