// max_pool2d on the CPU: what max_pool2d_kernel.cpp offers for each instruction set.
#pragma once

#include <cstdint>

#include "pool2d_axis.h"
#include "simd/isa.h"

namespace cnnext {

// `tap` holds r·S + s of each output, as uint8_t or, with wide_tap, as int32_t.
//
// For NCHW (plan.channels = 1) there are three ways: `pairs` (pool2d_pairs.h), `three_by_three`
// (max_pool2d_3x3.h) and `rows` for all evenly spaced windows, which needs scratch_bytes(plan) bytes of
// scratch. `channels` is for NHWC, and takes any plan. Forward and gather work on rows [begin, end) of the
// output, counted plane·P + p, backward on rows plane·H + h of the input, but for pairs on those of grad.
// Kernels may write past a row into the following ones, but never past row end − 1.
template <typename T>
struct MaxPool2dKernels {
  template <typename Kernel>
  struct Ways {
    Kernel pairs, three_by_three, rows, channels;
  };
  using Forward = void (*)(const PoolPlan& plan, bool wide_tap, const T* x, T* y, void* tap, void* scratch,
                           int64_t begin, int64_t end);
  using Backward = void (*)(const PoolPlan& plan, bool wide_tap, const T* grad, const void* tap, T* grad_x,
                            void* scratch, int64_t begin, int64_t end);
  Ways<Forward> forward;
  Ways<Backward> backward;
  Backward gather;  // x takes the place of grad, and the gathered y that of grad_x
  int64_t (*scratch_bytes)(const PoolPlan& plan);
};

CNNEXT_DECLARE_KERNELS(MaxPool2dKernels, max_pool2d_kernels)

}  // namespace cnnext
