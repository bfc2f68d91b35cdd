// The direct convolution of few channels on the CPU: what the kernel files offer for each instruction set.
#pragma once

#include <cstdint>

#include "conv2d_direct_plan.h"
#include "simd/isa.h"

namespace cnnext {

// Weights are [k, c / groups, r, s] and dense; activations are dense in either layout. Scratch has the plan's
// size.
template <typename T>
struct Conv2dDirectKernels {
  // Lanes of a vector of T's compute type.
  int64_t vector;
  // Units [begin, end) of plan.units(), a unit being a band of rows of one image, or a vector of images.
  // `source` is the input and `out` the output, or the gradients of output and input if the plan is a
  // backward one. bias may be null.
  void (*gather)(const GatherPlan& plan, const T* source, const T* weight, const T* bias, T* out,
                 void* scratch, int64_t begin, int64_t end);
};

CNNEXT_DECLARE_KERNELS(Conv2dDirectKernels, conv2d_direct_kernels)

}  // namespace cnnext
