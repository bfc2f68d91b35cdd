// max_pool2d on the CPU: what max_pool2d_kernel.cpp offers for each instruction set.
#pragma once

#include <cstdint>

#include "pool2d_axis.h"
#include "simd/isa.h"

namespace cnnext {

// `tap` holds r·S + s of each output, as uint8_t or, with wide_tap, as int32_t.
//
// For NCHW (plan.channels = 1) there are `pairs`, see pool2d_pairs.h, and `rows` for evenly spaced windows, which need
// scratch_bytes(plan) bytes of scratch. `channels` is for NHWC, and takes any plan. Forward and gather work on rows
// [begin, end) of the output, counted plane·P + p, backward on rows plane·H + h of the input, but for pairs on those of
// grad. Kernels may write past a row into the following ones, but never past row end − 1.
template <typename T>
struct MaxPool2dKernels {
  using Forward = void (*)(const PoolPlan& plan, bool wide_tap, const T* x, T* y, void* tap, void* scratch,
                           int64_t begin, int64_t end);
  using Backward = void (*)(const PoolPlan& plan, bool wide_tap, const T* grad, const void* tap, T* grad_x,
                            void* scratch, int64_t begin, int64_t end);
  Forward forward_pairs, forward_rows, forward_channels;
  Backward backward_pairs, backward_rows, backward_channels;
  Backward gather;  // x takes the place of grad, and the gathered y that of grad_x
  int64_t (*scratch_bytes)(const PoolPlan& plan);
};

CNNEXT_DECLARE_KERNELS(MaxPool2dKernels, max_pool2d_kernels)

}  // namespace cnnext
