// corr2d on the CPU: what corr2d_kernel.cpp offers for each instruction set.
#pragma once

#include <cstdint>

#include "../common/corr2d_shape.h"
#include "simd/isa.h"

namespace cnnext {

template <typename T>
struct Corr2dKernels {
  // Rows [begin, end) of y.
  void (*forward)(const Corr2dShape& shape, const T* x, const T* kernel, T* y, int64_t begin, int64_t end);
  // Rows [begin, end) of grad_x; `row` is scratch for w compute values.
  void (*backward_input)(const Corr2dShape& shape, const T* grad, const T* kernel, T* grad_x, void* row,
                         int64_t begin, int64_t end);
  // Taps [begin, end) of grad_kernel, counted r·S + s.
  void (*backward_kernel)(const Corr2dShape& shape, const T* grad, const T* x, T* grad_kernel, int64_t begin,
                          int64_t end);
};

CNNEXT_DECLARE_KERNELS(Corr2dKernels, corr2d_kernels)

}  // namespace cnnext
