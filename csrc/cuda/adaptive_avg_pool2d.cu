// adaptive_avg_pool2d on CUDA: checks, windows, registration. The kernels are avg_pool2d's.
#include "../torch/pool2d_checks.h"
#include "avg_pool2d.h"
#include "context.h"

namespace cnnext {

static Tensor adaptive_avg_pool2d(const Tensor& input, Sizes output_size) {
  check_adaptive_pool(input, output_size);
  return average_windows(input, adaptive_pool_axis(input.size(2), output_size[0]),
                         adaptive_pool_axis(input.size(3), output_size[1]));
}

static Tensor adaptive_avg_pool2d_backward(const Tensor& grad, Sizes input_size) {
  check_adaptive_pool_backward(grad, input_size);
  return spread_windows(grad, adaptive_pool_axis(input_size[2], grad.size(2)),
                        adaptive_pool_axis(input_size[3], grad.size(3)));
}

CNNEXT_CUDA_LIBRARY_IMPL(m) {
  m.impl("adaptive_avg_pool2d", TORCH_BOX(&adaptive_avg_pool2d));
  m.impl("adaptive_avg_pool2d_backward", TORCH_BOX(&adaptive_avg_pool2d_backward));
}

}  // namespace cnnext
