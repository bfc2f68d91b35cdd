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
  problem.images = s.n, problem.groups = s.groups, problem.backward = backward;
  problem.in = backward ? s.group_k() : s.group_c(), problem.out = backward ? s.group_c() : s.group_k();
  problem.source_h = backward ? s.p : s.h, problem.source_w = backward ? s.q : s.w;
  problem.height = backward ? s.h : s.p, problem.width = backward ? s.w : s.q;
  problem.source = backward ? y : x, problem.destination = backward ? x : y;
  problem.weight_group = s.group_k() * w.k, problem.weight_r = w.r, problem.weight_s = w.s;
  problem.weight_out = backward ? w.c : w.k, problem.weight_in = backward ? w.k : w.c;
  problem.r = s.r, problem.s = s.s, problem.stride_h = s.stride_h, problem.stride_w = s.stride_w;
  problem.pad_h = s.pad_h, problem.pad_w = s.pad_w, problem.dil_h = s.dil_h, problem.dil_w = s.dil_w;
  return problem;
}

template <int kCount, class T, class E>
void launch_gather_of(const Conv2dShape& shape, const GatherProblem& problem, const T* source,
                      const T* weight, const E& epilogue, T* destination, cudaStream_t stream) {
  const int64_t pixels = problem.images * problem.height * problem.width;
  const int64_t threads = pixels * problem.groups * ceil_div<int64_t>(problem.out, kCount);
  if (threads == 0) return;
  const int64_t channels = problem.groups * problem.out, source_channels = problem.groups * problem.in;
  device::launch(
      {kCount == 1 ? "conv2d_gather_direct_kernel_nhwc" : "conv2d_gather_direct_kernel_nchw",
       dim3(static_cast<unsigned>(ceil_div<int64_t>(threads, kThreads))), dim3(kThreads), 0, stream,
       conv2d_flops(shape)},
      {device::input("source", source,
                     problem.images * source_channels * problem.source_h * problem.source_w),
       device::input("weight", weight, shape.k * shape.gemm_k()),
       device::input("bias", epilogue.bias, epilogue.bias != nullptr ? channels : 0),
       device::output("destination", destination, pixels * channels)},
      [&] { return conv2d_text(shape); }, conv2d_gather_direct_kernel<T, kCount, E>, problem, source, weight,
      epilogue, destination);
}

template <class T, class E>
void launch_gather(const Conv2dShape& shape, Conv2dPass pass, Conv2dLayouts layouts, const T* source,
                   const T* weight, const E& epilogue, T* destination, cudaStream_t stream) {
  const GatherProblem problem = gather_problem(shape, pass, layouts);
  if (layouts.channels_last) {
    launch_gather_of<1>(shape, problem, source, weight, epilogue, destination, stream);
  } else {
    launch_gather_of<kChannels>(shape, problem, source, weight, epilogue, destination, stream);
  }
}

// partial [splits][k, c, r, s] and partial_bias [splits][k] are written whole.
template <bool kChannelsLast, class T>
void launch_weight_of(const Conv2dShape& s, int splits, const T* grad, const T* x, compute_t<T>* partial,
                      compute_t<T>* partial_bias, cudaStream_t stream) {
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
       device::output("partial", partial, splits * s.k * s.gemm_k()),
       device::output("partial_bias", partial_bias, splits * s.k)},
      [&] { return conv2d_text(s); }, conv2d_backward_weight_direct_kernel<T, kChannelsLast>, problem, grad,
      x, partial, partial_bias);
}

template <class T>
void launch_weight(const Conv2dShape& shape, bool channels_last, int splits, const T* grad, const T* x,
                   compute_t<T>* partial, compute_t<T>* partial_bias, cudaStream_t stream) {
  if (channels_last) {
    launch_weight_of<true>(shape, splits, grad, x, partial, partial_bias, stream);
  } else {
    launch_weight_of<false>(shape, splits, grad, x, partial, partial_bias, stream);
  }
}

}  // namespace cnnext::direct
