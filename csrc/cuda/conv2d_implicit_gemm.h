// The implicit GEMM on CUDA cores, as conv2d.cu calls it. Its kernels are compiled in a file for each dtype.
#pragma once

#include "conv2d_epilogue.cuh"
#include "conv2d_prologue.cuh"
#include "conv2d_request.h"

namespace cnnext::implicit_gemm {

// Forward and input gradient. `tile`: a row of the chooser's table.
template <class T>
void launch_gather(const Conv2dShape& shape, Conv2dPass pass, Conv2dLayouts layouts, int tile,
                   const T* source, const T* weight, const Conv2dPrologue<T>& prologue,
                   const Conv2dEpilogue<T>& epilogue, T* destination, cudaStream_t stream);

// Sums of the weight gradient, partial [splits][k, c, r, s], or [splits][k, r, s, c] for NHWC, and
// partial_bias [splits][k].
template <class T>
void launch_weight(const Conv2dShape& shape, bool channels_last, int tile, int splits, const T* grad,
                   const T* x, const Conv2dPrologue<T>& prologue, compute_t<T>* partial,
                   compute_t<T>* partial_bias, cudaStream_t stream);

}  // namespace cnnext::implicit_gemm
