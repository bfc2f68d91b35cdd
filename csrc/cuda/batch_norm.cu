// batch_norm on CUDA: checks, outputs, workspaces, launches, registration.
#include "batch_norm_tensors.h"

namespace cnnext {

namespace {

using Outputs = std::tuple<Tensor, Tensor, Tensor>;

// `name` of one of the four dtypes that ChannelValues reads.
void check_floating(const Tensor& tensor, const char* name) {
  dispatch_cuda_floating(tensor, name, [](auto) {});
}

Outputs batch_norm(const Tensor& input, const std::optional<Tensor>& weight,
                   const std::optional<Tensor>& bias, const std::optional<Tensor>& running_mean,
                   const std::optional<Tensor>& running_var, bool training, double eps) {
  check_batch_norm(input, weight, bias, running_mean, running_var, training, eps, check_same_device);
  const CudaScope scope(input);
  const bool channels_last = is_channels_last(input);
  const Tensor x = contiguous_as(input, channels_last);
  const int64_t statistics = training ? input.size(1) : 0;
  const Tensor y = empty(input, sizes_of(input), channels_last);
  Tensor mean = channel_values(input, statistics), var = channel_values(input, statistics);
  dispatch_cuda_floating(input, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = compute_t<T>;
    if (x.numel() == 0) {
      torch::stable::zero_(mean);
      torch::stable::zero_(var);
      return;
    }
    const BatchNormCall call = call_of(input, channels_last, {x, y}, scope.stream());
    const Tensor workspace = channel_values(input, 3 * input.size(1));
    C* coefficients = mutable_data<C>(workspace);
    const ChannelValues weights = values_in(weight), biases = values_in(bias);
    if (training) {
      const Tensor partial = partials(input, call);
      launch_moments(call, data<T>(x), mutable_data<double>(partial));
      launch_merge_moments(call, data<double>(partial), weights, biases, eps, mutable_data<C>(mean),
                           mutable_data<C>(var), coefficients);
    } else {
      launch_coefficients(call, values_in(running_mean), values_in(running_var), weights, biases, eps,
                          coefficients);
    }
    launch_apply<T>(call, data<T>(x), coefficients, nullptr, false, mutable_data<T>(y));
  });
  return {y, mean, var};
}

Outputs batch_norm_backward(const Tensor& grad, const Tensor& input, const std::optional<Tensor>& weight,
                            const Tensor& mean, const Tensor& var, bool training, double eps) {
  check_batch_norm_backward(grad, input, weight, mean, var, training, eps, check_same_device);
  const CudaScope scope(input);
  const bool channels_last = is_channels_last(input);
  const Tensor x = contiguous_as(input, channels_last), g = contiguous_as(grad, channels_last);
  const int64_t c = input.size(1);
  const Tensor grad_x = empty(input, sizes_of(input), channels_last);
  Tensor grad_weight = channel_values(input, c), grad_bias = channel_values(input, c);
  dispatch_cuda_floating(input, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = compute_t<T>;
    if (x.numel() == 0) {
      torch::stable::zero_(grad_weight);
      torch::stable::zero_(grad_bias);
      return;
    }
    const BatchNormCall call = call_of(input, channels_last, {g, x, grad_x}, scope.stream());
    const Tensor partial = partials(input, call), workspace = channel_values(input, 4 * c);
    C* coefficients = mutable_data<C>(workspace);
    const ChannelValues means = values_in(mean);
    launch_backward_sums<T>(call, data<T>(g), data<T>(x), means, {}, mutable_data<double>(partial), nullptr);
    launch_merge_gradients(call, data<double>(partial), values_in(weight), means, values_in(var), eps,
                           training, mutable_data<C>(grad_weight), mutable_data<C>(grad_bias), coefficients);
    launch_backward_apply<T>(call, data<T>(g), data<T>(x), coefficients, {}, training,
                             mutable_data<T>(grad_x), nullptr);
  });
  return {grad_x, grad_weight, grad_bias};
}

void batch_norm_update_(const Tensor& running_mean, const Tensor& running_var, const Tensor& mean,
                        const Tensor& var, int64_t count, double momentum) {
  check_batch_norm_update(running_mean, running_var, mean, var, count, check_same_device);
  check_floating(mean, "mean");
  check_floating(var, "var");
  const CudaScope scope(running_mean);
  dispatch_cuda_floating(running_mean, "running_mean", [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (running_mean.numel() == 0) return;
    launch_update(running_mean.size(0), mutable_data<T>(running_mean), running_mean.stride(0),
                  mutable_data<T>(running_var), running_var.stride(0), values_in(mean), values_in(var), count,
                  momentum, scope.stream());
  });
}

}  // namespace

CNNEXT_BATCH_NORM_PASSES(template, float)
CNNEXT_BATCH_NORM_PASSES(template, double)
CNNEXT_BATCH_NORM_PASSES(template, __half)
CNNEXT_BATCH_NORM_PASSES(template, __nv_bfloat16)

CNNEXT_CUDA_LIBRARY_IMPL(m) {
  m.impl("batch_norm", TORCH_BOX(&batch_norm));
  m.impl("batch_norm_backward", TORCH_BOX(&batch_norm_backward));
  m.impl("batch_norm_update_", TORCH_BOX(&batch_norm_update_));
}

}  // namespace cnnext
