// The arguments of a convolution's forward pass on the CPU.
#pragma once

#include "../torch/conv2d_checks.h"

namespace cnnext {

// The tensors of a convolution, checked and dense.
struct Convolution {
  Conv2dShape shape;
  bool channels_last;
  Tensor x, weight, output;
  std::optional<Tensor> bias;
};

inline Convolution checked_convolution(const Tensor& input, const Tensor& weight,
                                       const std::optional<Tensor>& bias, const Sizes& stride,
                                       const Sizes& padding, const Sizes& dilation, int64_t groups) {
  const Conv2dShape shape =
      conv2d_shape(sizes_of(input), sizes_of(weight), stride, padding, dilation, groups);
  check_weight_and_bias(input, weight, bias, shape, check_on_cpu);
  const bool channels_last = is_channels_last(input) || is_channels_last(weight);
  return {shape,
          channels_last,
          contiguous_as(input, channels_last),
          contiguous_as(weight, is_channels_last(weight)),
          empty(input, {shape.n, shape.k, shape.p, shape.q}, channels_last),
          bias ? std::optional(contiguous_as(*bias, false)) : std::nullopt};
}

}  // namespace cnnext
