// conv2d on the CPU: checks, outputs, registration.
#include "conv2d_passes.h"
#include "conv2d_tensors.h"

namespace cnnext {

static Tensor conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                     const Sizes& stride, const Sizes& padding, const Sizes& dilation, int64_t groups,
                     bool /*allow_tf32*/, bool /*allow_winograd*/) {
  const Convolution conv = checked_convolution(input, weight, bias, stride, padding, dilation, groups);
  dispatch_floating(input, "input", [&](auto tag) {
    conv2d_forward<typename decltype(tag)::type>(conv.shape, conv.x, conv.weight, conv.bias, conv.output,
                                                 conv.channels_last, {});
  });
  return conv.output;
}

static Tensor conv2d_backward_input(const Tensor& grad, const Tensor& weight, const Sizes& input_size,
                                    const Sizes& stride, const Sizes& padding, const Sizes& dilation,
                                    int64_t groups, bool /*allow_tf32*/, bool /*allow_winograd*/) {
  const Conv2dShape shape = conv2d_shape(input_size, sizes_of(weight), stride, padding, dilation, groups);
  check_grad(grad, shape, weight, "weight", check_on_cpu);
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
  const Conv2dWeightGradient pass =
      checked_weight_gradient(grad, input, weight_size, stride, padding, dilation, groups, check_on_cpu);
  dispatch_floating(grad, "grad", [&](auto tag) {
    using T = typename decltype(tag)::type;
    conv2d_backward_weight_of<T>(pass, {});
  });
  return {pass.grad_weight, pass.grad_bias};
}

STABLE_TORCH_LIBRARY_IMPL(cnnext, CPU, m) {
  m.impl("conv2d", TORCH_BOX(&conv2d));
  m.impl("conv2d_backward_input", TORCH_BOX(&conv2d_backward_input));
  m.impl("conv2d_backward_weight", TORCH_BOX(&conv2d_backward_weight));
}

}  // namespace cnnext
