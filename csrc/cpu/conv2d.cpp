// conv2d on the CPU: checks, outputs, the choice of the algorithm, threads, registration.
#include <cstdlib>
#include <cstring>

#include "../torch/conv2d_checks.h"
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

static Tensor conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                     const Sizes& stride, const Sizes& padding, const Sizes& dilation, int64_t groups,
                     bool /*allow_tf32*/, bool /*allow_winograd*/) {
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
                                    int64_t groups, bool /*allow_tf32*/, bool /*allow_winograd*/) {
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
                                                         int64_t groups, bool /*allow_tf32*/,
                                                         bool /*allow_winograd*/) {
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
