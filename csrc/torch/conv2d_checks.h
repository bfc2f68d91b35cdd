// The arguments of conv2d and its gradients, checked once for every device. torch's rules, with the argument
// named in the text.
#pragma once

#include "../common/conv2d_shape.h"
#include "checks.h"

namespace cnnext {

// Checks what the three passes have in common and fills the sizes; input and weight are given by their sizes.
inline Conv2dShape conv2d_shape(const Sizes& input, const Sizes& weight, const Sizes& stride,
                                const Sizes& padding, const Sizes& dilation, int64_t groups) {
  check(input.size() == 4, "expected `input` with 4 dimensions, but got shape ", to_text(input));
  check(weight.size() == 4, "expected `weight` with 4 dimensions, but got shape ", to_text(weight));
  for (int64_t size : input)
    check(size >= 0, "expected `input` of non-negative sizes, but got ", to_text(input));
  check_pair(stride, "stride", 1);
  check_pair(padding, "padding", 0);
  check_pair(dilation, "dilation", 1);
  check(groups >= 1, "expected `groups` to be at least 1, but got ", groups);
  check(weight[2] >= 1 && weight[3] >= 1, "expected `weight` to have at least one tap, but got shape ",
        to_text(weight));
  check(weight[0] >= 1 && weight[0] % groups == 0, "expected the ", weight[0],
        " output channels of `weight` to be a positive multiple of `groups`=", groups);
  check(weight[1] >= 1 && input[1] == weight[1] * groups, "expected `input` with ", weight[1] * groups,
        " channels (`weight` has ", weight[1], " for each of `groups`=", groups, "), but got shape ",
        to_text(input));
  const auto out = [&](int d) {
    const int64_t span = dilation[d] * (weight[d + 2] - 1) + 1, room = input[d + 2] + 2 * padding[d];
    check(span <= room, "expected `weight` to fit into `input`: the kernel spans ", span, " of dimension ",
          d + 2, " but the padded input has ", room, " (`input` ", to_text(input), ", `weight` ",
          to_text(weight), ", `padding` ", to_text(padding), ", `dilation` ", to_text(dilation), ")");
    return (room - span) / stride[d] + 1;
  };
  return {input[0], input[1],  input[2],  input[3],   weight[0],  weight[2],   weight[3],   out(0),
          out(1),   stride[0], stride[1], padding[0], padding[1], dilation[0], dilation[1], groups};
}

// check_device(tensor, name, other, other_name): whether the kernels reach `tensor`.
template <typename CheckDevice>
void check_weight_and_bias(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                           const Conv2dShape& shape, const CheckDevice& check_device) {
  check_same_dtype(input, "input", weight, "weight");
  check_device(weight, "weight", input, "input");
  if (!bias) return;
  check_shape(*bias, "bias", {shape.k});
  check_same_dtype(input, "input", *bias, "bias");
  check_device(*bias, "bias", input, "input");
}

// `other`: what the gradient meets in a backward pass.
template <typename CheckDevice>
void check_grad(const Tensor& grad, const Conv2dShape& shape, const Tensor& other, const char* name,
                const CheckDevice& check_device) {
  check_shape(grad, "grad", {shape.n, shape.k, shape.p, shape.q});
  check_same_dtype(grad, "grad", other, name);
  check_device(grad, "grad", other, name);
}

// The arguments of a weight gradient, checked and dense in one layout, and its results, unwritten.
struct Conv2dWeightGradient {
  Conv2dShape shape;
  bool channels_last;
  Tensor grad, input, grad_weight, grad_bias;
};

template <typename CheckDevice>
Conv2dWeightGradient checked_weight_gradient(const Tensor& grad, const Tensor& input,
                                             const Sizes& weight_size, const Sizes& stride,
                                             const Sizes& padding, const Sizes& dilation, int64_t groups,
                                             const CheckDevice& check_device) {
  const Conv2dShape shape = conv2d_shape(sizes_of(input), weight_size, stride, padding, dilation, groups);
  check_grad(grad, shape, input, "input", check_device);
  const bool last = is_channels_last(grad) || is_channels_last(input);
  return {shape,
          last,
          contiguous_as(grad, last),
          contiguous_as(input, last),
          empty(grad, weight_size),
          empty(grad, {shape.k})};
}

}  // namespace cnnext
