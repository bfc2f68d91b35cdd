// The bias gradient that goes with a weight gradient on tensor cores:
//   partial_bias[split][k] = Σ_{pixels of the split} grad[pixel, k]
// Layouts: NCHW or NHWC. Sums in fp32 that carry what their rounding lost (conv2d_backward_weight_sum.cuh):
// TF32 is for products, a sum of float32 values is to be as exact as torch's.
// Idea: a warp takes 32 channels of a pixel (NHWC) or 32 pixels of a channel (NCHW), so that lanes read side
// by side; the warps of a block divide the split's pixels.
#pragma once

#include "conv2d_backward_weight_sum.cuh"
#include "conv2d_layout.cuh"
#include "conv2d_tensor_core_config.h"
#include "device/convert.cuh"
#include "device/shared_memory.cuh"
#include "device/warp.cuh"

namespace cnnext::tensor_core {

template <class T>
struct BiasArguments {
  const T* grad;
  float* partial_bias;
  ImageStrides strides;
  int channels, pixels, split_pixels;
  Divisor image_pixels;
};

inline constexpr int kBiasWarps = 8;

struct BiasShared {
  float sum[kBiasWarps][32];
};

// Block (32 channels, or one; split).
template <class T>
__global__ void __launch_bounds__(kBiasWarps * 32) conv2d_tensor_core_bias_kernel(BiasArguments<T> args) {
  auto& shared = device::static_shared<BiasShared>();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, split = blockIdx.y;
  const bool channels_last = args.strides.c == 1;
  const int channel = channels_last ? blockIdx.x * 32 + lane : blockIdx.x;
  const int first = split * args.split_pixels, end = smaller(args.pixels, first + args.split_pixels);
  const int start = channels_last ? warp : threadIdx.x, step = channels_last ? kBiasWarps : kBiasWarps * 32;
  CarriedSum<float> sum;
  if (channel < args.channels) {
#pragma unroll 4
    for (int pixel = first + start; pixel < end; pixel += step) {
      const int image = args.image_pixels.quotient(pixel), rest = args.image_pixels.remainder(pixel);
      const int64_t offset = image * args.strides.n + rest * args.strides.w + channel * args.strides.c;
      sum.add(device::to_compute(args.grad[offset]));
    }
  }
  shared.sum[warp][lane] = sum.total();
  __syncthreads();
  if (warp == 0) {
    CarriedSum<float> total;
    for (int i = 0; i < kBiasWarps; ++i) total.add(shared.sum[i][lane]);
    if (channels_last) {
      if (channel < args.channels)
        args.partial_bias[int64_t{split} * args.channels + channel] = total.total();
    } else {
      const float whole = device::warp_sum(total.total());
      if (lane == 0) args.partial_bias[int64_t{split} * args.channels + channel] = whole;
    }
  }
}

}  // namespace cnnext::tensor_core
