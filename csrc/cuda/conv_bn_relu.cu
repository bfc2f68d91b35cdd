// The fused convolutions on CUDA: conv2d_statistics, conv2d_residual_relu and the weight gradient with a
// prologue; checks, outputs, launches, registration. The convolutions are those of conv2d, which normalise
// what they load and take the moments of what they store, where their algorithm can; where not, that is a
// pass of its own.
#include "../torch/conv_bn_relu_checks.h"
#include "batch_norm_tensors.h"
#include "conv2d_passes.h"

namespace cnnext {
namespace {

using Optional = std::optional<Tensor>;

Optional dense(const Optional& tensor, bool channels_last) {
  return tensor ? Optional(contiguous_as(*tensor, channels_last)) : std::nullopt;
}

// What a convolution reads, and as what: x with a prologue that normalises it on the way, or, for an
// algorithm that cannot, relu(batch_norm(x)) in memory.
template <class T>
struct Source {
  Tensor values, coefficients;
  Conv2dPrologue<T> prologue;
};

// x is dense in the request's layout.
template <class T>
Source<T> source_of(const Conv2dRequest& request, const Tensor& x, const InputNorm& norm,
                    cudaStream_t stream) {
  using C = compute_t<T>;
  if (!norm.mean || x.numel() == 0) return {x, {}, {}};
  const Tensor workspace = channel_values(x, 3 * x.size(1));
  C* coefficients = mutable_data<C>(workspace);
  const Tensor y = conv2d_takes_prologue(request) ? x : empty(x, sizes_of(x), request.channels_last);
  const BatchNormCall call = call_of(x, request.channels_last, {x, y}, stream);
  launch_coefficients(call, values_in(norm.mean), values_in(norm.var), values_in(norm.weight),
                      values_in(norm.bias), norm.eps, coefficients);
  if (conv2d_takes_prologue(request)) {
    const auto rows = coefficients_in(coefficients, x.size(1));
    return {x, workspace, {rows.center, rows.scale, rows.offset}};
  }
  launch_apply<T>(call, data<T>(x), coefficients, nullptr, true, mutable_data<T>(y));
  return {y, {}, {}};
}

// Mean and biased variance of every channel of y, from the moments that the convolution has taken.
template <class T>
void statistics(const Tensor& y, bool channels_last, const Conv2dMoments& moments, Tensor& mean, Tensor& var,
                cudaStream_t stream) {
  using C = compute_t<T>;
  constexpr int kMostChunks = 512, kFold = 64, kMostGrid = 65535;
  if (y.numel() == 0) {
    torch::stable::zero_(mean);
    torch::stable::zero_(var);
    return;
  }
  BatchNormCall call = call_of(y, channels_last, {y}, stream);
  Tensor partial = moments.partial;
  if (moments.pixels == 0) {
    partial = partials(y, call);
    launch_moments(call, data<T>(y), mutable_data<double>(partial));
  } else {
    call.plan.chunk = moments.pixels;
    call.plan.chunks = static_cast<int>(ceil_div(call.plan.values, call.plan.chunk));
  }
  if (call.plan.chunks > kMostChunks) {
    const int fold = larger(kFold, ceil_div(call.plan.chunks, kMostGrid));
    const int chunks = ceil_div(call.plan.chunks, fold);
    const Tensor folded = empty(y, {chunks, 2, y.size(1)}, ScalarType::Double);
    launch_fold_moments(call, fold, data<double>(partial), mutable_data<double>(folded));
    call.plan.chunk *= fold, call.plan.chunks = chunks;
    partial = folded;
  }
  launch_merge_moments<C>(call, data<double>(partial), values_in(std::nullopt), values_in(std::nullopt), 0,
                          mutable_data<C>(mean), mutable_data<C>(var), nullptr);
}

using Statistics = std::tuple<Tensor, Tensor, Tensor>;

Statistics conv2d_statistics(const Tensor& input, const Tensor& weight, const Optional& bias,
                             const Optional& in_mean, const Optional& in_var, const Optional& in_weight,
                             const Optional& in_bias, double in_eps, const Sizes& stride,
                             const Sizes& padding, const Sizes& dilation, int64_t groups, bool allow_tf32,
                             bool allow_winograd) {
  const Convolution conv = checked_convolution(input, weight, bias, stride, padding, dilation, groups);
  const InputNorm norm{in_mean, in_var, in_weight, in_bias, in_eps};
  norm.check_for(input, check_same_device);
  const CudaScope scope(input);
  const bool last = conv.channels_last;
  const Tensor output = conv.empty_output();
  Tensor mean = channel_values(output, conv.shape.k), var = channel_values(output, conv.shape.k);
  const Tensor x = contiguous_as(input, last);
  const Optional b = dense(bias, false);
  dispatch_cuda_floating(input, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Conv2dRequest request = conv.request<T>(allow_tf32, allow_winograd);
    const Source<T> source = source_of<T>(request, x, norm, scope.stream());
    Conv2dMoments moments;
    conv2d_gather<T>(request, source.values, weight, source.prologue, {data<T>(b)}, output, scope.stream(),
                     &moments);
    statistics<T>(output, last, moments, mean, var, scope.stream());
  });
  return {output, mean, var};
}

Tensor conv2d_residual_relu(const Tensor& input, const Tensor& weight, const Optional& bias,
                            const Optional& residual, bool relu, const Sizes& stride, const Sizes& padding,
                            const Sizes& dilation, int64_t groups, bool allow_tf32, bool allow_winograd) {
  const Convolution conv = checked_convolution(input, weight, bias, stride, padding, dilation, groups);
  const CudaScope scope(input);
  const Tensor output = conv.empty_output();
  check_like_input(residual, "residual", output, check_same_device);
  const Tensor x = contiguous_as(input, conv.channels_last);
  const Optional b = dense(bias, false), added = dense(residual, conv.channels_last);
  dispatch_cuda_floating(input, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    conv2d_gather<T>(conv.request<T>(allow_tf32, allow_winograd), x, weight, {},
                     {data<T>(b), data<T>(added), relu}, output, scope.stream());
  });
  return output;
}

std::tuple<Tensor, Tensor> conv2d_backward_weight_prologue(const Tensor& grad, const Tensor& input,
                                                           const Sizes& weight_size, const Tensor& in_mean,
                                                           const Tensor& in_var, const Optional& in_weight,
                                                           const Optional& in_bias, double in_eps,
                                                           const Sizes& stride, const Sizes& padding,
                                                           const Sizes& dilation, int64_t groups,
                                                           bool allow_tf32, bool allow_winograd) {
  const Conv2dWeightGradient pass =
      checked_weight_gradient(grad, input, weight_size, stride, padding, dilation, groups, check_same_device);
  const Optional mean(in_mean), var(in_var);
  const InputNorm norm{mean, var, in_weight, in_bias, in_eps};
  norm.check_for(input, check_same_device);
  const CudaScope scope(grad);
  dispatch_cuda_floating(grad, "grad", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto request = conv2d_request<T>(pass.shape, Conv2dPass::backward_weight, pass.channels_last,
                                           allow_tf32, allow_winograd);
    const Source<T> source = source_of<T>(request, pass.input, norm, scope.stream());
    conv2d_weight_gradient<T>(request, pass, source.values, source.prologue, scope.stream());
  });
  return {pass.grad_weight, pass.grad_bias};
}

}  // namespace

CNNEXT_CUDA_LIBRARY_IMPL(m) {
  m.impl("conv2d_statistics", TORCH_BOX(&conv2d_statistics));
  m.impl("conv2d_residual_relu", TORCH_BOX(&conv2d_residual_relu));
  m.impl("conv2d_backward_weight_prologue", TORCH_BOX(&conv2d_backward_weight_prologue));
}

}  // namespace cnnext
