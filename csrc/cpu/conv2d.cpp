// conv2d on the CPU: checks, outputs, the choice of the algorithm, threads, registration.
#include <cstdlib>
#include <cstring>

#include "conv2d_direct.h"
#include "conv2d_implicit_gemm.h"

namespace cnnext {

enum class Conv2dAlgorithm { implicit_gemm, direct };

// Whether the direct algorithm is faster than the implicit GEMM where both can run, by measurement on one
// core. It is for few channels; with more of them the GEMM wins as soon as packing its weights is a small
// part of the work, neighbouring pixels have little to share (1x1 kernels, strides), or channels_last makes
// its operand lie ready.
static bool direct_is_faster(const Conv2dShape& shape, Conv2dPass pass, bool channels_last) {
  constexpr int64_t kMostProducts = 128 * 9, kManyChannels = 64, kFewChannels = 8, kFullTile = 32,
                    kFewFilters = 16;
  const bool backward = pass == Conv2dPass::backward_input, for_weight = pass == Conv2dPass::backward_weight;
  const int64_t in = backward ? shape.group_k() : shape.group_c();
  const int64_t out = backward ? shape.group_c() : shape.group_k();
  const bool strided = shape.stride_h > 1 || shape.stride_w > 1;
  if (direct_products(shape, pass) > kMostProducts) return false;
  if (in >= kManyChannels && out >= kFullTile &&
      (strided || channels_last || in > kManyChannels || for_weight)) {
    return false;
  }
  if (!channels_last || in <= kFewChannels) return true;
  return for_weight ? out <= kFewFilters : shape.r * shape.s > 1;
}

// Which algorithm runs a pass: a function of the sizes and the layout alone. CNNEXT_CONV2D=direct or
// =implicit_gemm in the environment overrides it, for tests and measurements.
static Conv2dAlgorithm choose_algorithm(const Conv2dShape& shape, Conv2dPass pass, bool channels_last) {
  if (direct_refuses(shape, pass)) return Conv2dAlgorithm::implicit_gemm;
  if (const char* forced = std::getenv("CNNEXT_CONV2D")) {
    return std::strcmp(forced, "direct") ? Conv2dAlgorithm::implicit_gemm : Conv2dAlgorithm::direct;
  }
  return direct_is_faster(shape, pass, channels_last) ? Conv2dAlgorithm::direct
                                                      : Conv2dAlgorithm::implicit_gemm;
}

// Checks what the three passes have in common and fills the sizes; input and weight are given by their sizes.
static Conv2dShape conv2d_shape(const Sizes& input, const Sizes& weight, const Sizes& stride,
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

static void check_grad(const Tensor& grad, const Conv2dShape& shape) {
  check_shape(grad, "grad", {shape.n, shape.k, shape.p, shape.q});
}

static Tensor conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                     const Sizes& stride, const Sizes& padding, const Sizes& dilation, int64_t groups) {
  const Conv2dShape shape =
      conv2d_shape(sizes_of(input), sizes_of(weight), stride, padding, dilation, groups);
  check_same_dtype(input, "input", weight, "weight");
  if (bias) {
    check_shape(*bias, "bias", {shape.k});
    check_same_dtype(input, "input", *bias, "bias");
  }
  const bool channels_last = is_channels_last(input) || is_channels_last(weight);
  const Tensor output = empty(input, {shape.n, shape.k, shape.p, shape.q}, channels_last);
  const Tensor x = contiguous_as(input, channels_last), w = contiguous_as(weight, is_channels_last(weight));
  const std::optional<Tensor> b = bias ? std::optional(contiguous_as(*bias, false)) : std::nullopt;
  dispatch_floating(input, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (choose_algorithm(shape, Conv2dPass::forward, channels_last) == Conv2dAlgorithm::direct) {
      return direct_forward<T>(shape, x, w, b, output, channels_last);
    }
    implicit_gemm_forward<T>(shape, x, w, b, output, channels_last);
  });
  return output;
}

static Tensor conv2d_backward_input(const Tensor& grad, const Tensor& weight, const Sizes& input_size,
                                    const Sizes& stride, const Sizes& padding, const Sizes& dilation,
                                    int64_t groups) {
  const Conv2dShape shape = conv2d_shape(input_size, sizes_of(weight), stride, padding, dilation, groups);
  check_grad(grad, shape);
  check_same_dtype(grad, "grad", weight, "weight");
  const bool channels_last = is_channels_last(grad) || is_channels_last(weight);
  const Tensor grad_input = empty(grad, input_size, channels_last);
  const Tensor g = contiguous_as(grad, channels_last), w = contiguous_as(weight, is_channels_last(weight));
  dispatch_floating(grad, "grad", [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (choose_algorithm(shape, Conv2dPass::backward_input, channels_last) == Conv2dAlgorithm::direct) {
      return direct_backward_input<T>(shape, g, w, grad_input, channels_last);
    }
    implicit_gemm_backward_input<T>(shape, g, w, grad_input, channels_last);
  });
  return grad_input;
}

static std::tuple<Tensor, Tensor> conv2d_backward_weight(const Tensor& grad, const Tensor& input,
                                                         const Sizes& weight_size, const Sizes& stride,
                                                         const Sizes& padding, const Sizes& dilation,
                                                         int64_t groups) {
  const Conv2dShape shape = conv2d_shape(sizes_of(input), weight_size, stride, padding, dilation, groups);
  check_grad(grad, shape);
  check_same_dtype(grad, "grad", input, "input");
  const bool channels_last = is_channels_last(grad) || is_channels_last(input);
  const Tensor grad_weight = empty(grad, weight_size), grad_bias = empty(grad, {shape.k});
  const Tensor g = contiguous_as(grad, channels_last), x = contiguous_as(input, channels_last);
  dispatch_floating(grad, "grad", [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (choose_algorithm(shape, Conv2dPass::backward_weight, channels_last) == Conv2dAlgorithm::direct) {
      return direct_backward_weight<T>(shape, g, x, grad_weight, grad_bias, channels_last);
    }
    implicit_gemm_backward_weight<T>(shape, g, x, grad_weight, grad_bias, channels_last);
  });
  return {grad_weight, grad_bias};
}

STABLE_TORCH_LIBRARY_IMPL(cnnext, CPU, m) {
  m.impl("conv2d", TORCH_BOX(&conv2d));
  m.impl("conv2d_backward_input", TORCH_BOX(&conv2d_backward_input));
  m.impl("conv2d_backward_weight", TORCH_BOX(&conv2d_backward_weight));
}

}  // namespace cnnext
