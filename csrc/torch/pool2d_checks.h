// The arguments of the pools, checked once for every device. torch's rules, with the argument named in the
// text.
#pragma once

#include "../common/pool2d_shape.h"
#include "checks.h"

namespace cnnext {

struct Pool2dArguments {
  const Sizes &kernel_size, &stride, &padding, &dilation;
};

// The longest side of an image or output: the tables that describe an axis grow with it.
inline constexpr int64_t kLongestPoolSide = int64_t{1} << 26;

// Window arithmetic is done in 64 bits on values of at most 31, so that it cannot overflow.
inline void check_pool_pair(const Sizes& pair, const char* name, int64_t at_least) {
  check_pair(pair, name, at_least);
  if (pair[0] <= INT32_MAX && pair[1] <= INT32_MAX) return;
  check(false, "expected `", name, "` below 2^31, but got ", to_text(pair));
}

// The sizes of an input that may exist as a tensor or only as four integers.
inline void check_pool_input(const Sizes& input, const char* name) {
  const bool valid = input.size() == 4 && input[0] >= 0 && input[1] >= 1 && input[2] >= 1 && input[3] >= 1;
  if (valid && input[2] <= kLongestPoolSide && input[3] <= kLongestPoolSide) return;
  check(false, "expected `", name,
        "` with 4 dimensions, of which only the first may be empty and the last two be at ",
        "most 2^26, but got shape ", to_text(input));
}

// The shape with p = q = 0: the caller knows where the number of windows comes from.
inline Pool2dShape pool2d_shape_without_output(const Sizes& input, const char* name,
                                               const Pool2dArguments& arguments) {
  const auto& [kernel, stride, pad, dilation] = arguments;
  check_pool_input(input, name);
  check_pool_pair(kernel, "kernel_size", 1);
  check_pool_pair(stride, "stride", 1);
  check_pool_pair(pad, "padding", 0);
  check_pool_pair(dilation, "dilation", 1);
  for (size_t axis : {0, 1}) {
    if (pad[axis] <= kernel[axis] / 2) continue;
    check(false, "expected `padding` of at most half of `kernel_size`, but got ", to_text(pad), " and ",
          to_text(kernel));
  }
  return {input[0],  input[1], input[2], input[3],    kernel[0],   kernel[1], stride[0],
          stride[1], pad[0],   pad[1],   dilation[0], dilation[1], 0,         0};
}

inline Pool2dShape pool2d_shape(const Tensor& input, const Pool2dArguments& arguments, bool ceil_mode) {
  Pool2dShape shape = pool2d_shape_without_output(sizes_of(input), "input", arguments);
  shape.p = pool_windows(shape.h, shape.r, shape.stride_h, shape.pad_h, shape.dil_h, ceil_mode);
  shape.q = pool_windows(shape.w, shape.s, shape.stride_w, shape.pad_w, shape.dil_w, ceil_mode);
  if (shape.p >= 1 && shape.q >= 1) return shape;
  check(false, "expected `kernel_size` to fit into the padded input, but got kernel_size ",
        to_text(arguments.kernel_size), ", padding ", to_text(arguments.padding), " and dilation ",
        to_text(arguments.dilation), " for `input` of shape ", shape_text(input));
  return shape;
}

// For ops that are given an output of the pool (its gradient, say): the windows are read from it.
inline Pool2dShape pool2d_shape_from_output(const Sizes& input, const char* name,
                                            const Pool2dArguments& arguments, const Tensor& output,
                                            const char* output_name) {
  Pool2dShape shape = pool2d_shape_without_output(input, name, arguments);
  check_rank(output, output_name, 4);
  shape.p = output.size(2), shape.q = output.size(3);
  const auto possible = [](int64_t windows, int64_t size, int64_t kernel, int64_t stride, int64_t pad,
                           int64_t dil) {
    return windows >= 1 && (windows == pool_windows(size, kernel, stride, pad, dil, false) ||
                            windows == pool_windows(size, kernel, stride, pad, dil, true));
  };
  if (output.size(0) == shape.n && output.size(1) == shape.c &&
      possible(shape.p, shape.h, shape.r, shape.stride_h, shape.pad_h, shape.dil_h) &&
      possible(shape.q, shape.w, shape.s, shape.stride_w, shape.pad_w, shape.dil_w)) {
    return shape;
  }
  check(false, "expected `", output_name, "` to have the shape of the pool's output, but got ",
        shape_text(output), " for `", name, "` ", to_text(input), ", kernel_size ",
        to_text(arguments.kernel_size), ", stride ", to_text(arguments.stride), ", padding ",
        to_text(arguments.padding), " and dilation ", to_text(arguments.dilation));
  return shape;
}

// torch's rule for adaptive pools: an image without pixels has no windows, except that its global average is
// 0 / 0.
inline void check_adaptive_pool_input(const Sizes& input, const char* name, int64_t p, int64_t q) {
  const bool valid = input.size() == 4 && input[0] >= 0 && input[1] >= 0 && input[2] >= 0 && input[3] >= 0;
  if (!valid || input[2] > kLongestPoolSide || input[3] > kLongestPoolSide) {
    check(false, "expected `", name, "` with 4 dimensions, the last two at most 2^26, but got shape ",
          to_text(input));
  }
  if ((input[2] > 0 && input[3] > 0) || (p == 1 && q == 1)) return;
  check(false, "expected `", name, "` with height and width of at least 1, but got shape ", to_text(input));
}

inline void check_adaptive_pool(const Tensor& input, const Sizes& output_size) {
  check_pair(output_size, "output_size", 0);
  if (output_size[0] > kLongestPoolSide || output_size[1] > kLongestPoolSide) {
    check(false, "expected `output_size` of at most 2^26, but got ", to_text(output_size));
  }
  check_adaptive_pool_input(sizes_of(input), "input", output_size[0], output_size[1]);
}

inline void check_adaptive_pool_backward(const Tensor& grad, const Sizes& input_size) {
  check_rank(grad, "grad", 4);
  check_adaptive_pool_input(input_size, "input_size", grad.size(2), grad.size(3));
  check_shape(grad, "grad", {input_size[0], input_size[1], grad.size(2), grad.size(3)});
}

// The average pools have none, and a divisor that is not 0.
inline const Sizes kNoDilation = {1, 1};

inline void check_divisor(std::optional<int64_t> divisor_override) {
  check(divisor_override.value_or(1) != 0, "expected `divisor_override` not to be 0");
}

}  // namespace cnnext
