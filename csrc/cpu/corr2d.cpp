// corr2d on the CPU: checks, outputs, threads, registration.
#include "../torch/corr2d_checks.h"
#include "../torch/dispatch.h"
#include "corr2d_kernel.h"
#include "parallel.h"
#include "workspace.h"

namespace cnnext {

static Tensor corr2d(const Tensor& input, const Tensor& kernel) {
  const Corr2dShape shape = corr2d_shape(input, kernel);
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
  const Corr2dShape shape = corr2d_backward_input_shape(grad, kernel);
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
  const Corr2dShape shape = corr2d_backward_kernel_shape(grad, input);
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
