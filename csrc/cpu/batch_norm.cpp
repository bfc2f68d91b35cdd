// batch_norm on the CPU: checks, outputs, threads, registration.
#include "batch_norm_tensors.h"

namespace cnnext {
namespace {

using Outputs = std::tuple<Tensor, Tensor, Tensor>;

template <typename T>
void forward(const Tensor& x, const BatchNormShape& shape, const std::optional<Tensor>& weight,
             const std::optional<Tensor>& bias, const std::optional<Tensor>& running_mean,
             const std::optional<Tensor>& running_var, bool training, double eps, const Outputs& outputs) {
  using C = compute_t<T>;
  const auto& kernels = batch_norm_kernels<T>();
  const BatchNormChunks chunks = training ? batch_norm_chunks(shape) : BatchNormChunks{0, 0};
  BatchNormMemory<C> memory(shape.c, chunks);
  BatchNormChannels channels{widened(weight, memory), widened(bias, memory), nullptr, nullptr, eps};
  const T* x_data = data<T>(x);
  T* y = mutable_data<T>(std::get<0>(outputs));
  const auto apply = [&](const BatchNormBlock& block) {
    kernels.apply(shape, block, x_data, memory.coefficients, nullptr, false, y);
  };
  if (!training) {
    channels.mean = widened(running_mean, memory);
    channels.var = widened(running_var, memory);
    kernels.coefficients(shape, channels, 0, shape.c, memory.coefficients);
    return apply_everywhere(shape, apply);
  }
  channels.mean = memory.partial;
  channels.var = memory.partial + shape.c;
  C *mean = mutable_data<C>(std::get<1>(outputs)), *var = mutable_data<C>(std::get<2>(outputs));
  int64_t counts[kMostChunks];
  for (int64_t i = 0; i < chunks.count; ++i)
    counts[i] = smaller(chunks.length, shape.values() - i * chunks.length);
  reduce_then_apply(
      shape, chunks, memory.partial,
      [&](const BatchNormBlock& block, double* sums) { kernels.moments(shape, block, x_data, sums); },
      [&](int64_t c_begin, int64_t c_end) {
        kernels.merge_moments(shape, chunks.count, counts, c_begin, c_end, memory.partial, mean, var);
        kernels.coefficients(shape, channels, c_begin, c_end, memory.coefficients);
      },
      apply);
}

Outputs batch_norm(const Tensor& input, const std::optional<Tensor>& weight,
                   const std::optional<Tensor>& bias, const std::optional<Tensor>& running_mean,
                   const std::optional<Tensor>& running_var, bool training, double eps) {
  check_batch_norm(input, weight, bias, running_mean, running_var, training, eps, check_on_cpu);
  const bool channels_last = is_channels_last(input);
  const BatchNormShape shape = shape_of(input, channels_last);
  const Tensor x = contiguous_as(input, channels_last);
  const int64_t statistics = training ? input.size(1) : 0;
  Outputs outputs{empty(input, sizes_of(input), channels_last), channel_values(input, statistics),
                  channel_values(input, statistics)};
  dispatch_floating(input, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (x.numel() > 0) {
      forward<T>(x, shape, weight, bias, running_mean, running_var, training, eps, outputs);
    } else {
      torch::stable::zero_(std::get<1>(outputs));
      torch::stable::zero_(std::get<2>(outputs));
    }
  });
  return outputs;
}

template <typename T>
void backward(const Tensor& grad, const Tensor& x, const BatchNormShape& shape,
              const std::optional<Tensor>& weight, const Tensor& mean, const Tensor& var, bool training,
              double eps, const Outputs& gradients) {
  using C = compute_t<T>;
  const auto& kernels = batch_norm_backward_kernels<T>();
  const BatchNormChunks chunks = batch_norm_chunks(shape);
  BatchNormMemory<C> memory(shape.c, chunks);
  const BatchNormChannels channels{widened(weight, memory), nullptr, widened(mean, memory),
                                   widened(var, memory), eps};
  const BatchNormGradient<T> gradient{data<T>(grad), data<T>(x), nullptr, BatchNormGate::open};
  T* grad_x = mutable_data<T>(std::get<0>(gradients));
  C *grad_weight = mutable_data<C>(std::get<1>(gradients)),
    *grad_bias = mutable_data<C>(std::get<2>(gradients));
  const BatchNormCoefficients<C>& coefficients = memory.coefficients;
  const double *sum = memory.partial, *sum_normal = sum + shape.c;
  const double share = training ? 1 / static_cast<double>(shape.values() * shape.fold) : 0;
  kernels.centers(shape, channels.mean, coefficients.center);
  reduce_then_apply(
      shape, chunks, memory.partial,
      [&](const BatchNormBlock& block, double* sums) {
        kernels.sums(shape, block, gradient, coefficients, sums);
      },
      [&](int64_t c_begin, int64_t c_end) {
        kernels.add_up(shape, chunks, c_begin, c_end, channels, memory.partial, grad_weight, grad_bias);
        kernels.coefficients(shape, channels, c_begin, c_end, sum, sum_normal, share, coefficients);
      },
      [&](const BatchNormBlock& block) {
        kernels.apply(shape, block, gradient, coefficients, training, grad_x, nullptr);
      });
}

Outputs batch_norm_backward(const Tensor& grad, const Tensor& input, const std::optional<Tensor>& weight,
                            const Tensor& mean, const Tensor& var, bool training, double eps) {
  check_batch_norm_backward(grad, input, weight, mean, var, training, eps, check_on_cpu);
  const bool channels_last = is_channels_last(input);
  const BatchNormShape shape = shape_of(input, channels_last);
  const Tensor x = contiguous_as(input, channels_last), g = contiguous_as(grad, channels_last);
  const int64_t c = input.size(1);
  Outputs gradients{empty(input, sizes_of(input), channels_last), channel_values(input, c),
                    channel_values(input, c)};
  dispatch_floating(input, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (x.numel() > 0) {
      backward<T>(g, x, shape, weight, mean, var, training, eps, gradients);
    } else {
      torch::stable::zero_(std::get<1>(gradients));
      torch::stable::zero_(std::get<2>(gradients));
    }
  });
  return gradients;
}

void batch_norm_update_(const Tensor& running_mean, const Tensor& running_var, const Tensor& mean,
                        const Tensor& var, int64_t count, double momentum) {
  check_batch_norm_update(running_mean, running_var, mean, var, count, check_on_cpu);
  check(running_mean.is_cpu(), "expected `running_mean` on the CPU");
  const int64_t c = running_mean.size(0);
  dispatch_floating(running_mean, "running_mean", [&](auto tag) {
    using T = typename decltype(tag)::type;
    BatchNormMemory<compute_t<T>> memory(c, {0, 0});
    const double *batch_mean = widened(mean, memory), *batch_var = widened(var, memory);
    batch_norm_kernels<T>().update(mutable_data<T>(running_mean), running_mean.stride(0),
                                   mutable_data<T>(running_var), running_var.stride(0), batch_mean, batch_var,
                                   c, count, momentum);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cnnext, CPU, m) {
  m.impl("batch_norm", TORCH_BOX(&batch_norm));
  m.impl("batch_norm_backward", TORCH_BOX(&batch_norm_backward));
  m.impl("batch_norm_update_", TORCH_BOX(&batch_norm_update_));
}

}  // namespace cnnext
