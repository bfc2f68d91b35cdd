// adaptive_avg_pool2d on the CPU: checks, windows, registration. The kernels are avg_pool2d's.
#include "../torch/pool2d_checks.h"
#include "avg_pool2d.h"

namespace cnnext {

// torch's rule: an image without pixels has no windows, except that its global average is 0 / 0.
static void check_adaptive(const Sizes& input, const char* name, int64_t p, int64_t q) {
  const bool valid = input.size() == 4 && input[0] >= 0 && input[1] >= 0 && input[2] >= 0 && input[3] >= 0;
  if (!valid || input[2] > kLongestPoolSide || input[3] > kLongestPoolSide) {
    check(false, "expected `", name, "` with 4 dimensions, the last two at most 2^26, but got shape ",
          to_text(input));
  }
  if ((input[2] > 0 && input[3] > 0) || (p == 1 && q == 1)) return;
  check(false, "expected `", name, "` with height and width of at least 1, but got shape ", to_text(input));
}

static Tensor adaptive_avg_pool2d(const Tensor& input, Sizes output_size) {
  check_pair(output_size, "output_size", 0);
  if (output_size[0] > kLongestPoolSide || output_size[1] > kLongestPoolSide) {
    check(false, "expected `output_size` of at most 2^26, but got ", to_text(output_size));
  }
  check_adaptive(sizes_of(input), "input", output_size[0], output_size[1]);
  return average_windows(input, PoolTables::adaptive(input.size(2), output_size[0]),
                         PoolTables::adaptive(input.size(3), output_size[1]));
}

static Tensor adaptive_avg_pool2d_backward(const Tensor& grad, Sizes input_size) {
  check_rank(grad, "grad", 4);
  check_adaptive(input_size, "input_size", grad.size(2), grad.size(3));
  check_shape(grad, "grad", {input_size[0], input_size[1], grad.size(2), grad.size(3)});
  return spread_windows(grad, PoolTables::adaptive(input_size[2], grad.size(2)),
                        PoolTables::adaptive(input_size[3], grad.size(3)));
}

STABLE_TORCH_LIBRARY_IMPL(cnnext, CPU, m) {
  m.impl("adaptive_avg_pool2d", TORCH_BOX(&adaptive_avg_pool2d));
  m.impl("adaptive_avg_pool2d_backward", TORCH_BOX(&adaptive_avg_pool2d_backward));
}

}  // namespace cnnext
