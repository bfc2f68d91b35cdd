// avg_pool2d and adaptive_avg_pool2d on the CPU: what avg_pool2d_kernel.cpp offers for each instruction set.
#pragma once

#include <cstdint>

#include "pool2d_axis.h"
#include "simd/isa.h"

namespace cnnext {

// Forward works on rows [begin, end) of the output, counted plane·P + p, backward on rows plane·H + h of the
// input, but for pairs on those of grad. They may write past a row into the following ones, but never past
// row end − 1. For NCHW (plan.channels = 1) there are four ways, with scratch_bytes(plan) bytes of scratch:
// `pairs`, see pool2d_pairs.h, `rows` for evenly spaced windows, `wide` where one window is as wide as the
// image, `uneven` for any. `channels` is for NHWC, and takes any plan.
template <typename T>
struct AvgPool2dKernels {
  using Kernel = void (*)(const PoolPlan& plan, const T* x, T* y, void* scratch, int64_t begin, int64_t end);
  struct Pass {
    Kernel pairs, rows, wide, uneven, channels;
  };
  Pass forward;
  Pass backward;  // grad takes the place of x, grad_x that of y
  int64_t (*scratch_bytes)(const PoolPlan& plan);
};

CNNEXT_DECLARE_KERNELS(AvgPool2dKernels, avg_pool2d_kernels)

}  // namespace cnnext
