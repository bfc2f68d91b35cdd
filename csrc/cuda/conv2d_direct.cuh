// Launchers of the direct algorithm.
#pragma once

#include "conv2d_direct_kernel.cuh"
#include "conv2d_direct_weight_kernel.cuh"
#include "conv2d_request.h"

namespace cnnext::direct {

inline GatherProblem gather_problem(const Conv2dShape& s, Conv2dPass pass, Conv2dLayouts layouts) {
  const bool backward = pass == Conv2dPass::backward_input, last = layouts.channels_last;
  const ImageStrides x = image_strides(s.c, s.h, s.w, last), y = image_strides(s.k, s.p, s.q, last);
  const WeightStrides w = weight_strides(s.group_c(), s.r, s.s, layouts.weight_channels_last);
  GatherProblem problem{};
  problem.images = s.n, problem.groups = static_cast<int>(s.groups);
  problem.in = static_cast<int>(backward ? s.group_k() : s.group_c());
  problem.out = static_cast<int>(backward ? s.group_c() : s.group_k());
  problem.rows = GatherAxis(backward, s.h, s.p, s.r, s.stride_h, s.pad_h, s.dil_h);
  problem.cols = GatherAxis(backward, s.w, s.q, s.s, s.stride_w, s.pad_w, s.dil_w);
  problem.pixels = s.n * problem.rows.size * problem.cols.size;
  problem.source = backward ? y : x, problem.destination = backward ? x : y;
  problem.weight_group = s.group_k() * w.k, problem.weight_r = w.r, problem.weight_s = w.s;
  problem.weight_out = backward ? w.c : w.k, problem.weight_in = backward ? w.k : w.c;
  problem.lane_channels = 1;
  while (problem.lane_channels < smaller(problem.groups * problem.out, kLastChannels))
    problem.lane_channels *= 2;
  problem.channel_blocks = last ? ceil_div(problem.groups * problem.out, problem.lane_channels)
                                : problem.groups * ceil_div(problem.out, kChannels);
  problem.narrow = problem.pixels < (int64_t{1} << 31) / problem.channel_blocks;
  return problem;
}

template <class T>
void launch_gather(const Conv2dShape& shape, Conv2dPass pass, Conv2dLayouts layouts, const T* source,
                   const T* weight, const Conv2dPrologue<T>& prologue, const Conv2dEpilogue<T>& epilogue,
                   T* destination, cudaStream_t stream) {
  const GatherProblem problem = gather_problem(shape, pass, layouts);
  if (problem.pixels == 0) return;
  const bool last = layouts.channels_last;
  const int64_t block_pixels = int64_t{kThreads} / problem.lane_channels * kPixels;
  const int64_t blocks = last ? ceil_div(problem.pixels, block_pixels) * problem.channel_blocks
                              : ceil_div<int64_t>(problem.pixels * problem.channel_blocks, kThreads);
  const int64_t channels = int64_t{problem.groups} * problem.out,
                source_channels = int64_t{problem.groups} * problem.in;
  device::launch(
      {last ? "conv2d_gather_direct_nhwc_kernel" : "conv2d_gather_direct_nchw_kernel",
       dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream, conv2d_flops(shape)},
      {device::input("source", source, problem.images * problem.source.n),
       device::input("weight", weight, shape.k * shape.gemm_k()),
       device::input("center", prologue.center, source_channels),
       device::input("scale", prologue.scale, source_channels),
       device::input("offset", prologue.offset, source_channels),
       device::input("bias", epilogue.bias, epilogue.bias != nullptr ? channels : 0),
       device::input("residual", epilogue.residual,
                     epilogue.residual != nullptr ? problem.pixels * channels : 0),
       device::output("destination", destination, problem.pixels * channels)},
      [&] { return conv2d_text(shape); },
      last ? conv2d_gather_direct_nhwc_kernel<T> : conv2d_gather_direct_nchw_kernel<T>, problem, source,
      weight, prologue, epilogue, destination);
}

// partial [splits][k, c, r, s] and partial_bias [splits][k] are written whole.
template <bool kChannelsLast, class T>
void launch_weight_of(const Conv2dShape& s, int splits, const T* grad, const T* x,
                      const Conv2dPrologue<T>& prologue, compute_t<T>* partial, compute_t<T>* partial_bias,
                      cudaStream_t stream) {
  const WeightProblem problem{s, image_strides(s.c, s.h, s.w, kChannelsLast),
                              image_strides(s.k, s.p, s.q, kChannelsLast),
                              ceil_div<int64_t>(s.gemm_m(), splits)};
  const int64_t channels = kChannelsLast ? ceil_div<int64_t>(s.k, kLastChannels) : s.k;
  const dim3 grid(static_cast<unsigned>(channels * s.group_c()),
                  static_cast<unsigned>(ceil_div<int64_t>(s.r * s.s, kTaps)), static_cast<unsigned>(splits));
  device::launch(
      {kChannelsLast ? "conv2d_backward_weight_direct_kernel_nhwc"
                     : "conv2d_backward_weight_direct_kernel_nchw",
       grid, dim3(kWeightThreads), 0, stream, conv2d_flops(s)},
      {device::input("grad", grad, s.gemm_m() * s.k), device::input("input", x, s.n * s.c * s.h * s.w),
       device::input("center", prologue.center, s.c), device::input("scale", prologue.scale, s.c),
       device::input("offset", prologue.offset, s.c),
       device::output("partial", partial, splits * s.k * s.gemm_k()),
       device::output("partial_bias", partial_bias, splits * s.k)},
      [&] { return conv2d_text(s); }, conv2d_backward_weight_direct_kernel<T, kChannelsLast>, problem, grad,
      x, prologue, partial, partial_bias);
}

template <class T>
void launch_weight(const Conv2dShape& shape, bool channels_last, int splits, const T* grad, const T* x,
                   const Conv2dPrologue<T>& prologue, compute_t<T>* partial, compute_t<T>* partial_bias,
                   cudaStream_t stream) {
  if (channels_last) {
    launch_weight_of<true>(shape, splits, grad, x, prologue, partial, partial_bias, stream);
  } else {
    launch_weight_of<false>(shape, splits, grad, x, prologue, partial, partial_bias, stream);
  }
}

}  // namespace cnnext::direct
