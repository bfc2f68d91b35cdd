// The convolution on tensor cores, as conv2d.cu calls it. T is __half, __nv_bfloat16, or float for TF32; the
// kernels are compiled in a file for each.
#pragma once

#include "conv2d_epilogue.cuh"
#include "conv2d_tensor_core_choose.h"

namespace cnnext::tensor_core {

// Forward and input gradient. `packed`: room for the plan's packed_bytes, aligned to 16.
template <class T>
void launch_gather(const Conv2dRequest& request, const Plan& plan, bool weight_channels_last, const T* source,
                   const T* weight, const Conv2dEpilogue<T>& epilogue, T* destination, void* packed,
                   cudaStream_t stream);

// Sums of the weight gradient, partial [plan.splits][k, r, s, c], and partial_bias [plan.splits][k].
template <class T>
void launch_weight(const Conv2dRequest& request, const Plan& plan, const T* grad, const T* x, float* partial,
                   float* partial_bias, cudaStream_t stream);

}  // namespace cnnext::tensor_core
