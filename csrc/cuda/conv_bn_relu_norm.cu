// batch_norm_relu and its backward passes on CUDA: checks, outputs, workspaces, launches, registration. The
// kernels are those of batch_norm, with the residual and the ReLU in the same pass.
#include "../torch/conv_bn_relu_checks.h"
#include "batch_norm_tensors.h"

namespace cnnext {
namespace {

using Optional = std::optional<Tensor>;

Tensor batch_norm_relu(const Tensor& input, const Tensor& mean, const Tensor& var, const Optional& weight,
                       const Optional& bias, const Optional& residual, bool relu, double eps) {
  check_batch_norm_relu(input, mean, var, weight, bias, eps, check_same_device);
  check_like_input(residual, "residual", input, check_same_device);
  const CudaScope scope(input);
  const bool last = is_channels_last(input);
  const Tensor x = contiguous_as(input, last), output = empty(input, sizes_of(input), last);
  const Optional added = residual ? Optional(contiguous_as(*residual, last)) : std::nullopt;
  dispatch_cuda_floating(input, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = compute_t<T>;
    if (input.numel() == 0) return;
    const BatchNormCall call = call_of(input, last, {x, output, added}, scope.stream());
    const Tensor workspace = channel_values(input, 3 * input.size(1));
    C* coefficients = mutable_data<C>(workspace);
    launch_coefficients(call, values_in(mean), values_in(var), values_in(weight), values_in(bias), eps,
                        coefficients);
    launch_apply(call, data<T>(x), coefficients, data<T>(added), relu, mutable_data<T>(output));
  });
  return output;
}

// The arguments that the backward ops have in common, checked and dense in the input's layout.
class Gradient {
 public:
  Gradient(const Tensor& grad, const Tensor& input, const Tensor& mean, const Tensor& var,
           const Optional& weight, const Optional& bias, const Optional& output, bool relu, double eps)
      : mean_(mean), var_(var), weight_(weight), bias_(bias), relu_(relu), eps_(eps) {
    check_batch_norm_relu(input, mean, var, weight, bias, eps, check_same_device);
    check_like_input(grad, "grad", input, check_same_device);
    check_like_input(output, "output", input, check_same_device);
    last_ = is_channels_last(input);
    grad_ = contiguous_as(grad, last_), x_ = contiguous_as(input, last_);
    if (output) output_ = contiguous_as(*output, last_);
    grad_input_ = empty_input(), grad_residual_ = output ? empty_input() : empty(x_, {0});
  }

  const Tensor& grad_input() const { return grad_input_; }
  const Tensor& grad_residual() const { return grad_residual_; }

  BatchNormCall call(cudaStream_t stream) const {
    return call_of(x_, last_, {grad_, x_, output_, grad_input_, grad_residual_}, stream);
  }

  // The mask of the ReLU; where it is computed anew, from coefficients that `memory` keeps.
  template <class T>
  BatchNormGate<T> gate(const BatchNormCall& call, Tensor& memory) const {
    using C = compute_t<T>;
    if (!relu_) return {};
    if (output_) return {ReluGate::output, data<T>(output_), nullptr, nullptr};
    const int64_t c = x_.size(1);
    memory = channel_values(x_, 3 * c);
    C* coefficients = mutable_data<C>(memory);
    launch_coefficients(call, values_in(mean_), values_in(var_), values_in(weight_), values_in(bias_), eps_,
                        coefficients);
    const auto rows = coefficients_in(coefficients, c);
    return {ReluGate::input, nullptr, rows.scale, rows.offset};
  }

  // The sums, and the coefficients of grad_x that follow from them. gated: null, or room for the gradients
  // that the gate lets through.
  template <class T, class C = compute_t<T>>
  void sums(const BatchNormCall& call, const BatchNormGate<T>& gate, const Tensor& sum,
            const Tensor& sum_normal, C* coefficients, T* gated) const {
    const Tensor partial = partials(x_, call);
    launch_backward_sums(call, data<T>(grad_), data<T>(x_), values_in(mean_), gate,
                         mutable_data<double>(partial), gated);
    launch_merge_gradients(call, data<double>(partial), values_in(weight_), values_in(mean_), values_in(var_),
                           eps_, true, mutable_data<C>(sum_normal), mutable_data<C>(sum), coefficients);
  }

  template <class T, class C = compute_t<T>>
  void coefficients(const BatchNormCall& call, const Tensor& sum, const Tensor& sum_normal, int64_t count,
                    C* coefficients) const {
    launch_gradient_coefficients(call, values_in(sum), values_in(sum_normal), values_in(weight_),
                                 values_in(mean_), values_in(var_), eps_, count, coefficients);
  }

  template <class T, class C = compute_t<T>>
  void apply(const BatchNormCall& call, const BatchNormGate<T>& gate, C* coefficients) const {
    launch_backward_apply(call, data<T>(grad_), data<T>(x_), coefficients, gate, true,
                          mutable_data<T>(grad_input_), output_ ? mutable_data<T>(grad_residual_) : nullptr);
  }

  // Both passes. Where the residual gets what the gate lets through, the first one writes that, and the
  // second reads it in place of gradient and output.
  template <class T, class C = compute_t<T>>
  void whole(const BatchNormCall& call, const BatchNormGate<T>& gate, const Tensor& sum,
             const Tensor& sum_normal, C* coefficients) const {
    if (gate.kind != ReluGate::output) {
      sums<T>(call, gate, sum, sum_normal, coefficients, nullptr);
      return apply<T>(call, gate, coefficients);
    }
    T* gated = mutable_data<T>(grad_residual_);
    sums<T>(call, gate, sum, sum_normal, coefficients, gated);
    launch_backward_apply<T>(call, gated, data<T>(x_), coefficients, {}, true, mutable_data<T>(grad_input_),
                             nullptr);
  }

 private:
  Tensor empty_input() const { return empty(x_, sizes_of(x_), last_); }

  Tensor grad_, x_, mean_, var_, grad_input_, grad_residual_;
  Optional weight_, bias_, output_;
  bool last_, relu_;
  double eps_;
};

using Sums = std::tuple<Tensor, Tensor>;
using Backward = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// sum and sum_normal of every channel, which run(tag, call, gate, sum, sum_normal, coefficients) writes.
template <class Run>
Sums channel_sums(const Gradient& gradient, const Tensor& input, const Run& run) {
  const CudaScope scope(input);
  const int64_t c = input.size(1);
  Tensor sum = channel_values(input, c), sum_normal = channel_values(input, c);
  dispatch_cuda_floating(input, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (input.numel() == 0) {
      torch::stable::zero_(sum);
      torch::stable::zero_(sum_normal);
      return;
    }
    Tensor memory;
    const BatchNormCall call = gradient.call(scope.stream());
    const BatchNormGate<T> gate = gradient.gate<T>(call, memory);
    const Tensor workspace = channel_values(input, 4 * c);
    run(tag, call, gate, sum, sum_normal, mutable_data<compute_t<T>>(workspace));
  });
  return {sum, sum_normal};
}

Backward batch_norm_relu_backward(const Tensor& grad, const Tensor& input, const Tensor& mean,
                                  const Tensor& var, const Optional& weight, const Optional& bias,
                                  const Optional& output, bool relu, double eps) {
  const Gradient gradient(grad, input, mean, var, weight, bias, output, relu, eps);
  const auto [sum, sum_normal] = channel_sums(gradient, input, [&](auto tag, const auto&... arguments) {
    gradient.whole<typename decltype(tag)::type>(arguments...);
  });
  return {gradient.grad_input(), gradient.grad_residual(), sum_normal, sum};
}

Sums batch_norm_relu_backward_sums(const Tensor& grad, const Tensor& input, const Tensor& mean,
                                   const Tensor& var, const Optional& weight, const Optional& bias,
                                   const Optional& output, bool relu, double eps) {
  const Gradient gradient(grad, input, mean, var, weight, bias, output, relu, eps);
  return channel_sums(gradient, input, [&](auto tag, const auto&... arguments) {
    gradient.sums<typename decltype(tag)::type>(arguments..., nullptr);
  });
}

std::tuple<Tensor, Tensor> batch_norm_relu_backward_apply(const Tensor& grad, const Tensor& input,
                                                          const Tensor& mean, const Tensor& var,
                                                          const Optional& weight, const Optional& bias,
                                                          const Optional& output, const Tensor& sum,
                                                          const Tensor& sum_normal, int64_t count, bool relu,
                                                          double eps) {
  const Gradient gradient(grad, input, mean, var, weight, bias, output, relu, eps);
  check_batch_norm_parameters(input, {{"sum", sum}, {"sum_normal", sum_normal}}, check_same_device);
  check(count >= 1, "expected `count` of at least 1, but got ", count);
  const CudaScope scope(input);
  dispatch_cuda_floating(input, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = compute_t<T>;
    if (input.numel() == 0) return;
    Tensor memory;
    const BatchNormCall call = gradient.call(scope.stream());
    const BatchNormGate<T> gate = gradient.gate<T>(call, memory);
    const Tensor workspace = channel_values(input, 4 * input.size(1));
    gradient.coefficients<T>(call, sum, sum_normal, count, mutable_data<C>(workspace));
    gradient.apply<T>(call, gate, mutable_data<C>(workspace));
  });
  return {gradient.grad_input(), gradient.grad_residual()};
}

}  // namespace

CNNEXT_CUDA_LIBRARY_IMPL(m) {
  m.impl("batch_norm_relu", TORCH_BOX(&batch_norm_relu));
  m.impl("batch_norm_relu_backward", TORCH_BOX(&batch_norm_relu_backward));
  m.impl("batch_norm_relu_backward_sums", TORCH_BOX(&batch_norm_relu_backward_sums));
  m.impl("batch_norm_relu_backward_apply", TORCH_BOX(&batch_norm_relu_backward_apply));
}

}  // namespace cnnext
