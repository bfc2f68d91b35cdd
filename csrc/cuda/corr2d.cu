// corr2d on CUDA: checks, outputs, the choice of the algorithm, registration.
#include "../torch/corr2d_checks.h"
#include "context.h"
#include "corr2d_launch.cuh"

namespace cnnext {

// y [p, q] of x [h, w] and kernel [r, s], which are on one device and dense.
static Tensor correlate(const Correlation& shape, const Tensor& x, const Tensor& kernel, const char* x_name) {
  const CudaScope scope(x);
  const Tensor y = empty(x, {shape.p, shape.q});
  dispatch_cuda_floating(x, x_name, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = compute_t<T>;
    const int multiprocessors = device::current_device_limits().multiprocessors;
    const Corr2dChoice choice = choose_corr2d(shape, sizeof(C), multiprocessors);
    if (choice.algorithm == Corr2dAlgorithm::kSplitSum) {
      const auto dtype = sizeof(C) == sizeof(double) ? ScalarType::Double : ScalarType::Float;
      const Tensor partial = empty(x, {choice.splits, shape.p * shape.q}, dtype);
      launch_corr2d_split_sum(shape, choice, data<T>(x), data<T>(kernel), mutable_data<C>(partial),
                              mutable_data<T>(y), scope.stream());
    } else if (choice.algorithm == Corr2dAlgorithm::kTiled) {
      launch_corr2d_tiled(shape, data<T>(x), data<T>(kernel), mutable_data<T>(y), scope.stream());
    } else {
      launch_corr2d_direct(shape, data<T>(x), data<T>(kernel), mutable_data<T>(y), scope.stream());
    }
  });
  return y;
}

static Tensor corr2d(const Tensor& input, const Tensor& kernel) {
  const Corr2dShape s = corr2d_shape(input, kernel);
  check_same_device(input, "input", kernel, "kernel");
  return correlate({s.h, s.w, s.r, s.s, s.p, s.q, 0, 0, false}, contiguous_as(input, false),
                   contiguous_as(kernel, false), "input");
}

static Tensor corr2d_backward_input(const Tensor& grad, const Tensor& kernel) {
  const Corr2dShape s = corr2d_backward_input_shape(grad, kernel);
  check_same_device(grad, "grad", kernel, "kernel");
  return correlate({s.p, s.q, s.r, s.s, s.h, s.w, s.r - 1, s.s - 1, true}, contiguous_as(grad, false),
                   contiguous_as(kernel, false), "grad");
}

// grad_kernel[r, s] = Σ_{p,q} input[p + r, q + s] · grad[p, q]: the correlation of the input with the
// gradient.
static Tensor corr2d_backward_kernel(const Tensor& grad, const Tensor& input) {
  const Corr2dShape s = corr2d_backward_kernel_shape(grad, input);
  check_same_device(grad, "grad", input, "input");
  return correlate({s.h, s.w, s.p, s.q, s.r, s.s, 0, 0, false}, contiguous_as(input, false),
                   contiguous_as(grad, false), "grad");
}

CNNEXT_CUDA_LIBRARY_IMPL(m) {
  m.impl("corr2d", TORCH_BOX(&corr2d));
  m.impl("corr2d_backward_input", TORCH_BOX(&corr2d_backward_input));
  m.impl("corr2d_backward_kernel", TORCH_BOX(&corr2d_backward_kernel));
}

}  // namespace cnnext

// choose_corr2d in words, for tests: what is taken, then "<algorithm>: <reason>" of those passed over, a line
// each. `numbers`: h w r s p q pad_h pad_w turned, bytes of a computed value, multiprocessors.
extern "C" __attribute__((visibility("default"))) void cnnext_corr2d_explain(const int64_t* numbers,
                                                                             char* text, int64_t size) {
  const int64_t* n = numbers;
  const cnnext::Correlation shape{n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8] != 0};
  std::vector<std::string> why;
  const cnnext::Corr2dChoice choice = cnnext::choose_corr2d(shape, n[9], static_cast<int>(n[10]), &why);
  std::string said = cnnext::corr2d_algorithm_name(choice.algorithm);
  if (choice.algorithm == cnnext::Corr2dAlgorithm::kSplitSum) said += " of " + std::to_string(choice.splits);
  for (const std::string& reason : why) said += "\n" + reason;
  std::strncpy(text, said.c_str(), static_cast<size_t>(size));
}
