// corr2d on CUDA: checks, outputs, launches, registration.
#include "../torch/corr2d_checks.h"
#include "context.h"
#include "corr2d_kernel.cuh"

namespace cnnext {

static Tensor corr2d(const Tensor& input, const Tensor& kernel) {
  const Corr2dShape shape = corr2d_shape(input, kernel);
  check_same_device(input, "input", kernel, "kernel");
  const CudaScope scope(input);
  const Tensor x = contiguous_as(input, false), taps = contiguous_as(kernel, false);
  const Tensor y = empty(x, {shape.p, shape.q});
  dispatch_cuda_floating(x, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_corr2d_forward(shape, data<T>(x), data<T>(taps), mutable_data<T>(y), scope.stream());
  });
  return y;
}

static Tensor corr2d_backward_input(const Tensor& grad, const Tensor& kernel) {
  const Corr2dShape shape = corr2d_backward_input_shape(grad, kernel);
  check_same_device(grad, "grad", kernel, "kernel");
  const CudaScope scope(grad);
  const Tensor g = contiguous_as(grad, false), taps = contiguous_as(kernel, false);
  const Tensor grad_x = empty(g, {shape.h, shape.w});
  dispatch_cuda_floating(g, "grad", [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_corr2d_backward_input(shape, data<T>(g), data<T>(taps), mutable_data<T>(grad_x), scope.stream());
  });
  return grad_x;
}

// grad_kernel[r, s] = Σ_{p,q} x[p + r, q + s] · grad[p, q]: the correlation of the input with the gradient.
static Tensor corr2d_backward_kernel(const Tensor& grad, const Tensor& input) {
  const Corr2dShape shape = corr2d_backward_kernel_shape(grad, input);
  check_same_device(grad, "grad", input, "input");
  const CudaScope scope(grad);
  const Tensor g = contiguous_as(grad, false), x = contiguous_as(input, false);
  const Tensor grad_kernel = empty(g, {shape.r, shape.s});
  dispatch_cuda_floating(g, "grad", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Corr2dShape transposed{shape.h, shape.w, shape.p, shape.q, shape.r, shape.s};
    launch_corr2d_forward(transposed, data<T>(x), data<T>(g), mutable_data<T>(grad_kernel), scope.stream());
  });
  return grad_kernel;
}

CNNEXT_CUDA_LIBRARY_IMPL(m) {
  m.impl("corr2d", TORCH_BOX(&corr2d));
  m.impl("corr2d_backward_input", TORCH_BOX(&corr2d_backward_input));
  m.impl("corr2d_backward_kernel", TORCH_BOX(&corr2d_backward_kernel));
}

}  // namespace cnnext
