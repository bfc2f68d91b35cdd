// corr2d on the CPU: checks, outputs, threads, registration.
#include "../torch/checks.h"
#include "../torch/dispatch.h"
#include "corr2d_kernel.h"
#include "parallel.h"
#include "workspace.h"

namespace cnnext {

static Corr2dShape shape_of(int64_t h, int64_t w, int64_t r, int64_t s) {
  check(r >= 1 && s >= 1 && r <= h && s <= w, "expected `kernel` of shape [", r, ", ", s,
        "] to have at least one tap and to fit into `input` of shape [", h, ", ", w, "]");
  return {h, w, r, s, h - r + 1, w - s + 1};
}

static Tensor corr2d(const Tensor& input, const Tensor& kernel) {
  check_rank(input, "input", 2);
  check_rank(kernel, "kernel", 2);
  check_same_dtype(input, "input", kernel, "kernel");
  const Corr2dShape shape = shape_of(input.size(0), input.size(1), kernel.size(0), kernel.size(1));
  const Tensor x = contiguous_as(input, false), taps = contiguous_as(kernel, false);
  const Tensor y = empty(x, {shape.p, shape.q});
  dispatch_floating(x, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(shape.p, shape.q * shape.r * shape.s, [&](int64_t begin, int64_t end) {
      corr2d_kernels<T>().forward(shape, data<T>(x), data<T>(taps), mutable_data<T>(y), begin, end);
    });
  });
  return y;
}

static Tensor corr2d_backward_input(const Tensor& grad, const Tensor& kernel) {
  check_rank(grad, "grad", 2);
  check_rank(kernel, "kernel", 2);
  check_same_dtype(grad, "grad", kernel, "kernel");
  const Corr2dShape shape = shape_of(grad.size(0) + kernel.size(0) - 1, grad.size(1) + kernel.size(1) - 1,
                                     kernel.size(0), kernel.size(1));
  const Tensor g = contiguous_as(grad, false), taps = contiguous_as(kernel, false);
  const Tensor grad_x = empty(g, {shape.h, shape.w});
  dispatch_floating(g, "grad", [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(shape.h, shape.w * shape.r * shape.s, [&](int64_t begin, int64_t end) {
      auto* row = workspace<compute_t<T>>(shape.w);
      corr2d_kernels<T>().backward_input(shape, data<T>(g), data<T>(taps), mutable_data<T>(grad_x), row,
                                         begin, end);
    });
  });
  return grad_x;
}

static Tensor corr2d_backward_kernel(const Tensor& grad, const Tensor& input) {
  check_rank(grad, "grad", 2);
  check_rank(input, "input", 2);
  check_same_dtype(grad, "grad", input, "input");
  const Corr2dShape shape = shape_of(input.size(0), input.size(1), input.size(0) - grad.size(0) + 1,
                                     input.size(1) - grad.size(1) + 1);
  const Tensor g = contiguous_as(grad, false), x = contiguous_as(input, false);
  const Tensor grad_kernel = empty(g, {shape.r, shape.s});
  dispatch_floating(g, "grad", [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(shape.r * shape.s, shape.p * shape.q, [&](int64_t begin, int64_t end) {
      corr2d_kernels<T>().backward_kernel(shape, data<T>(g), data<T>(x), mutable_data<T>(grad_kernel), begin,
                                          end);
    });
  });
  return grad_kernel;
}

STABLE_TORCH_LIBRARY_IMPL(cnnext, CPU, m) {
  m.impl("corr2d", TORCH_BOX(&corr2d));
  m.impl("corr2d_backward_input", TORCH_BOX(&corr2d_backward_input));
  m.impl("corr2d_backward_kernel", TORCH_BOX(&corr2d_backward_kernel));
}

}  // namespace cnnext
