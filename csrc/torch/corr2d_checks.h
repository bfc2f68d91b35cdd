// The arguments of corr2d and its gradients, checked once for every device.
#pragma once

#include "../common/corr2d_shape.h"
#include "checks.h"

namespace cnnext {

inline void check_corr2d_pair(const Tensor& a, const char* a_name, const Tensor& b, const char* b_name) {
  check_rank(a, a_name, 2);
  check_rank(b, b_name, 2);
  check_same_dtype(a, a_name, b, b_name);
}

inline Corr2dShape corr2d_shape_of(int64_t h, int64_t w, int64_t r, int64_t s) {
  check(r >= 1 && s >= 1 && r <= h && s <= w, "expected `kernel` of shape [", r, ", ", s,
        "] to have at least one tap and to fit into `input` of shape [", h, ", ", w, "]");
  return {h, w, r, s, h - r + 1, w - s + 1};
}

inline Corr2dShape corr2d_shape(const Tensor& input, const Tensor& kernel) {
  check_corr2d_pair(input, "input", kernel, "kernel");
  return corr2d_shape_of(input.size(0), input.size(1), kernel.size(0), kernel.size(1));
}

inline Corr2dShape corr2d_backward_input_shape(const Tensor& grad, const Tensor& kernel) {
  check_corr2d_pair(grad, "grad", kernel, "kernel");
  return corr2d_shape_of(grad.size(0) + kernel.size(0) - 1, grad.size(1) + kernel.size(1) - 1, kernel.size(0),
                         kernel.size(1));
}

inline Corr2dShape corr2d_backward_kernel_shape(const Tensor& grad, const Tensor& input) {
  check_corr2d_pair(grad, "grad", input, "input");
  return corr2d_shape_of(input.size(0), input.size(1), input.size(0) - grad.size(0) + 1,
                         input.size(1) - grad.size(1) + 1);
}

}  // namespace cnnext
