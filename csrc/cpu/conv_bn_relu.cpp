// The fused convolutions on the CPU: conv2d_statistics, conv2d_residual_relu and the weight gradient with a
// prologue; checks, outputs, registration. The algorithms are those of conv2d: they normalise what they pack,
// and hand every part of the output, while it is in the cache, to an epilogue of conv_bn_relu_epilogues.h.
#include "../torch/conv_bn_relu_checks.h"
#include "conv2d_passes.h"
#include "conv2d_tensors.h"
#include "conv_bn_relu_epilogues.h"

namespace cnnext {
namespace {

using Optional = std::optional<Tensor>;

// The coefficients of a prologue; `memory` keeps them.
template <typename T>
Conv2dPrologue<compute_t<T>> prologue_of(const Tensor& input, const InputNorm& norm, Tensor& memory) {
  using C = compute_t<T>;
  if (!norm.mean) return {};
  const int64_t c = input.size(1);
  memory = empty(input, {3 * c}, kComputeDtype<T>);
  C* const values = mutable_data<C>(memory);
  BatchNormMemory<C> scratch(c, {0, 0});
  const BatchNormChannels channels{widened(norm.weight, scratch), widened(norm.bias, scratch),
                                   widened(norm.mean, scratch), widened(norm.var, scratch), norm.eps};
  batch_norm_kernels<T>().coefficients({1, c, 1, false, 1}, channels, 0, c,
                                       {values, values + c, nullptr, values + 2 * c, nullptr});
  return {values, values + c, values + 2 * c};
}

using Statistics = std::tuple<Tensor, Tensor, Tensor>;

Statistics conv2d_statistics(const Tensor& input, const Tensor& weight, const Optional& bias,
                             const Optional& in_mean, const Optional& in_var, const Optional& in_weight,
                             const Optional& in_bias, double in_eps, const Sizes& stride,
                             const Sizes& padding, const Sizes& dilation, int64_t groups, bool /*allow_tf32*/,
                             bool /*allow_winograd*/) {
  const Convolution conv = checked_convolution(input, weight, bias, stride, padding, dilation, groups);
  const InputNorm norm{in_mean, in_var, in_weight, in_bias, in_eps};
  norm.check_for(input, check_on_cpu);
  const Tensor mean = channel_values(conv.output, conv.shape.k),
               var = channel_values(conv.output, conv.shape.k);
  dispatch_floating(input, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    Tensor memory;
    StatisticsEpilogue<T> statistics(conv.output, conv.channels_last);
    conv2d_forward<T>(conv.shape, conv.x, conv.weight, conv.bias, conv.output, conv.channels_last,
                      {prologue_of<T>(input, norm, memory), &statistics});
    statistics.write(mean, var);
  });
  return {conv.output, mean, var};
}

Tensor conv2d_residual_relu(const Tensor& input, const Tensor& weight, const Optional& bias,
                            const Optional& residual, bool relu, const Sizes& stride, const Sizes& padding,
                            const Sizes& dilation, int64_t groups, bool /*allow_tf32*/,
                            bool /*allow_winograd*/) {
  const Convolution conv = checked_convolution(input, weight, bias, stride, padding, dilation, groups);
  if (residual) {
    check_shape(*residual, "residual", sizes_of(conv.output));
    check_same_dtype(*residual, "residual", input, "input");
    check_on_cpu(*residual, "residual", input, "input");
  }
  const Optional added = residual ? Optional(contiguous_as(*residual, conv.channels_last)) : std::nullopt;
  dispatch_floating(input, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    ResidualReluEpilogue<T> epilogue(conv.output, conv.channels_last, added, relu);
    conv2d_forward<T>(conv.shape, conv.x, conv.weight, conv.bias, conv.output, conv.channels_last,
                      {{}, residual || relu ? &epilogue : nullptr});
  });
  return conv.output;
}

std::tuple<Tensor, Tensor> conv2d_backward_weight_prologue(const Tensor& grad, const Tensor& input,
                                                           const Sizes& weight_size, const Tensor& in_mean,
                                                           const Tensor& in_var, const Optional& in_weight,
                                                           const Optional& in_bias, double in_eps,
                                                           const Sizes& stride, const Sizes& padding,
                                                           const Sizes& dilation, int64_t groups,
                                                           bool /*allow_tf32*/, bool /*allow_winograd*/) {
  const Conv2dWeightGradient pass =
      checked_weight_gradient(grad, input, weight_size, stride, padding, dilation, groups, check_on_cpu);
  const Optional mean(in_mean), var(in_var);
  const InputNorm norm{mean, var, in_weight, in_bias, in_eps};
  norm.check_for(input, check_on_cpu);
  dispatch_floating(grad, "grad", [&](auto tag) {
    using T = typename decltype(tag)::type;
    Tensor memory;
    const auto prologue = prologue_of<T>(input, norm, memory);
    conv2d_backward_weight_of<T>(pass, prologue);
  });
  return {pass.grad_weight, pass.grad_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cnnext, CPU, m) {
  m.impl("conv2d_statistics", TORCH_BOX(&conv2d_statistics));
  m.impl("conv2d_residual_relu", TORCH_BOX(&conv2d_residual_relu));
  m.impl("conv2d_backward_weight_prologue", TORCH_BOX(&conv2d_backward_weight_prologue));
}

}  // namespace cnnext
