// The direct convolution of few channels on the CPU: what the kernel files offer for each instruction set.
#pragma once

#include <cstdint>

#include "conv2d_direct_plan.h"
#include "conv2d_prologue.h"
#include "simd/isa.h"

namespace cnnext {

// Weights are [k, c / groups, r, s] and dense; activations are dense in either layout. Scratch has the plan's
// size.
template <typename T>
struct Conv2dDirectKernels {
  // Lanes of a vector of T's compute type.
  int64_t vector;
  // Packs weight and bias, which may be null, into the scratch that `gather` is then called with.
  void (*prepare)(const GatherPlan& plan, const T* weight, const T* bias, void* scratch);
  // One of plan.units(), a band of rows of one image, or a vector of images; `first` is true for the first
  // one since `prepare`. `source` is the input and `out` the output, or the gradients of output and input if
  // the plan is a backward one.
  void (*gather)(const GatherPlan& plan, const T* source, const Conv2dPrologue<compute_t<T>>& prologue,
                 T* out, void* scratch, int64_t unit, bool first);
};

CNNEXT_DECLARE_KERNELS(Conv2dDirectKernels, conv2d_direct_kernels)

}  // namespace cnnext
