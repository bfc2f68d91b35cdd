// The direct convolution's weight gradient on the CPU: what the kernel file offers for each instruction set.
#pragma once

#include <cstdint>

#include "../common/math.h"
#include "conv2d_direct_weight_plan.h"
#include "conv2d_prologue.h"
#include "simd/isa.h"

namespace cnnext {

template <typename T>
struct Conv2dDirectWeightKernels {
  // Lanes of a vector of T's compute type.
  int64_t vector;
  // Chunks [begin, end) of plan.chunks, each written to partials[chunk][plan.partial_size()].
  void (*backward_weight)(const WeightGradPlan& plan, const T* grad, const T* x,
                          const Conv2dPrologue<compute_t<T>>& prologue, compute_t<T>* partials, void* scratch,
                          int64_t begin, int64_t end);
  // The sum of all chunks, in their order and in place: grad_weight [k, c / groups, r, s], dense, and
  // grad_bias [k].
  void (*add_partials)(const WeightGradPlan& plan, compute_t<T>* partials, T* grad_weight, T* grad_bias,
                       void* scratch);
};

CNNEXT_DECLARE_KERNELS(Conv2dDirectWeightKernels, conv2d_direct_weight_kernels)

}  // namespace cnnext
