// conv2d's weight gradient straight from its formula.
//   grad_weight[k, c, r, s] = Σ_{n,p,q} grad[n, k, p, q] · x[n, c, p·stride − pad + r·dil, …],  grad_bias = Σ
//   grad
// Layout: grad and x both NCHW or both NHWC; sums [split][k, c, r, s] and [split][k], in the compute type.
// Idea: a block has one input channel, up to kTaps taps, and in NCHW one output channel with all its lanes
// along the pixels, in NHWC 32 output channels, a lane each. A gradient is read once for all the taps. The
// pixels are cut into splits, every sum carries its rounding error along, and
// conv2d_backward_weight_reduce_kernel.cuh adds up their sums.
#pragma once

#include "conv2d_backward_weight_sum.cuh"
#include "conv2d_direct_choose.h"
#include "conv2d_layout.cuh"
#include "conv2d_prologue.cuh"
#include "device/convert.cuh"
#include "device/launch.cuh"
#include "device/shared_memory.cuh"
#include "device/warp.cuh"

namespace cnnext::direct {

inline constexpr int kWeightThreads = 256, kWarps = kWeightThreads / device::kWarpSize;

struct WeightProblem {
  Conv2dShape shape;
  ImageStrides x, grad;
  int64_t pixels_per_split;
};

// A warp's sums: the taps and, last, the bias; for each lane in NHWC, for all lanes together in NCHW. The
// taps of a lane, which are read side by side, lie in different banks.
template <class C>
struct WeightSums {
  C value[kWarps][kTaps + 1][device::kWarpSize + ceil_div(device::kWarpSize, kTaps)];

  CNNEXT_DEVICE C of_all_warps(int t, int lane) const {
    CarriedSum<C> sum;
    for (int warp = 0; warp < kWarps; ++warp) sum.add(value[warp][t][lane]);
    return sum.total();
  }
};

// The sums of one thread over every `step`-th pixel of [begin, end), of one input channel.
template <class T>
CNNEXT_DEVICE void add_pixels(const WeightProblem& problem, const T* grad, const T* x, int64_t first_tap,
                              int taps, int64_t begin, int64_t end, int64_t step,
                              const Conv2dPrologue<T>& prologue, int64_t channel,
                              CarriedSum<compute_t<T>> (&sums)[kTaps + 1]) {
  const Conv2dShape& shape = problem.shape;
  int64_t tap_h[kTaps], tap_w[kTaps];
#pragma unroll
  for (int t = 0; t < kTaps; ++t) {
    tap_h[t] = (first_tap + t) / shape.s * shape.dil_h - shape.pad_h;
    tap_w[t] = (first_tap + t) % shape.s * shape.dil_w - shape.pad_w;
  }
  ChannelNorm<compute_t<T>> norm{};
  if (prologue.exists()) norm = prologue.of(channel);
  for (int64_t pixel = begin; pixel < end; pixel += step) {
    const int64_t q = pixel % shape.q, p = pixel / shape.q % shape.p, image = pixel / shape.q / shape.p;
    const auto g = device::to_compute(grad[image * problem.grad.n + p * problem.grad.h + q * problem.grad.w]);
    const T* from = x + image * problem.x.n;
    sums[kTaps].add(g);
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      const int64_t h = p * shape.stride_h + tap_h[t], w = q * shape.stride_w + tap_w[t];
      if (t < taps && h >= 0 && h < shape.h && w >= 0 && w < shape.w) {
        const T value = from[h * problem.x.h + w * problem.x.w];
        sums[t].add(g * device::to_compute(prologue.exists() ? norm.activated(value) : value));
      }
    }
  }
}

// Grid: x the output channels (NCHW) or blocks of 32 of them (NHWC) times the input channels of a group,
// y the blocks of taps, z the splits. One block at least: without that word ptxas keeps room for two on
// sm_100, and spills float64.
template <class T, bool kChannelsLast>
__global__ void __launch_bounds__(kWeightThreads, 1)
    conv2d_backward_weight_direct_kernel(const WeightProblem problem, const T* grad, const T* x,
                                         const Conv2dPrologue<T> prologue, compute_t<T>* partial,
                                         compute_t<T>* partial_bias) {
  using C = compute_t<T>;
  constexpr int kLanes = kChannelsLast ? kLastChannels : 1;  // output channels of the block
  const Conv2dShape& shape = problem.shape;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % device::kWarpSize,
            warp = thread / device::kWarpSize;
  const int64_t c = int64_t{blockIdx.x} % shape.group_c(),
                first_k = int64_t{blockIdx.x} / shape.group_c() * kLanes;
  const int64_t k = first_k + lane % kLanes, first_tap = int64_t{blockIdx.y} * kTaps;
  const int taps = static_cast<int>(smaller<int64_t>(kTaps, shape.r * shape.s - first_tap));
  const int64_t begin = int64_t{blockIdx.z} * problem.pixels_per_split;
  const int64_t end = smaller(begin + problem.pixels_per_split, shape.gemm_m());

  CarriedSum<C> sums[kTaps + 1];
  if (k < shape.k) {
    const int64_t channel = k / shape.group_k() * shape.group_c() + c;
    add_pixels(problem, grad + k * problem.grad.c, x + channel * problem.x.c, first_tap, taps,
               begin + (kChannelsLast ? warp : thread), end, kChannelsLast ? kWarps : kWeightThreads,
               prologue, channel, sums);
  }
  auto& shared = device::static_shared<WeightSums<C>>();
#pragma unroll
  for (int t = 0; t <= kTaps; ++t) {
    const C own = sums[t].total(), value = kChannelsLast ? own : device::warp_sum(own);
    if (lane < kLanes) shared.value[warp][t][lane] = value;
  }
  __syncthreads();
  const int lanes = static_cast<int>(smaller<int64_t>(kLanes, shape.k - first_k));
  partial += int64_t{blockIdx.z} * shape.k * shape.gemm_k();
  for (int i = thread; i < taps * lanes; i += kWeightThreads) {
    const int t = i % taps, of = i / taps;
    partial[((first_k + of) * shape.group_c() + c) * shape.r * shape.s + first_tap + t] =
        shared.of_all_warps(t, of);
  }
  if (c == 0 && first_tap == 0) {
    for (int of = thread; of < lanes; of += kWeightThreads) {
      partial_bias[int64_t{blockIdx.z} * shape.k + first_k + of] = shared.of_all_warps(kTaps, of);
    }
  }
}

}  // namespace cnnext::direct
