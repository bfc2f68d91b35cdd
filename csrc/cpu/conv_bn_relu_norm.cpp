// batch_norm_relu and its backward passes on the CPU: checks, outputs, threads, registration. The kernels are
// those of batch_norm, with the residual and the ReLU in the same pass.
#include "../torch/conv_bn_relu_checks.h"
#include "batch_norm_tensors.h"

namespace cnnext {
namespace {

using Optional = std::optional<Tensor>;

// ---- forward
// ------------------------------------------------------------------------------------------------

template <typename T>
void forward(const Tensor& x, const BatchNormShape& shape, const Tensor& mean, const Tensor& var,
             const Optional& weight, const Optional& bias, const Optional& residual, bool relu, double eps,
             const Tensor& output) {
  using C = compute_t<T>;
  const auto& kernels = batch_norm_kernels<T>();
  BatchNormMemory<C> memory(shape.c, {0, 0});
  const BatchNormChannels channels{widened(weight, memory), widened(bias, memory), widened<C>(mean, memory),
                                   widened<C>(var, memory), eps};
  kernels.coefficients(shape, channels, 0, shape.c, memory.coefficients);
  const T *x_data = data<T>(x), *residual_data = data<T>(residual);
  T* y = mutable_data<T>(output);
  apply_everywhere(shape, [&](const BatchNormBlock& block) {
    kernels.apply(shape, block, x_data, memory.coefficients, residual_data, relu, y);
  });
}

Tensor batch_norm_relu(const Tensor& input, const Tensor& mean, const Tensor& var, const Optional& weight,
                       const Optional& bias, const Optional& residual, bool relu, double eps) {
  check_batch_norm_relu(input, mean, var, weight, bias, eps, check_on_cpu);
  check_like_input(residual, "residual", input, check_on_cpu);
  const bool channels_last = is_channels_last(input);
  const BatchNormShape shape = shape_of(input, channels_last);
  const Tensor x = contiguous_as(input, channels_last), output = empty(input, sizes_of(input), channels_last);
  const Optional added = residual ? Optional(contiguous_as(*residual, channels_last)) : std::nullopt;
  if (input.numel() == 0) return output;
  dispatch_floating(input, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    forward<T>(x, shape, mean, var, weight, bias, added, relu, eps, output);
  });
  return output;
}

// ---- backward
// -----------------------------------------------------------------------------------------------

// The arguments that the three backward ops have in common, checked and dense in the input's layout.
struct Gradient {
  Tensor grad, x;
  Optional output;
  bool channels_last, relu;
  BatchNormShape shape;

  template <typename T>
  BatchNormGradient<T> pointers() const {
    const BatchNormGate gate = !relu    ? BatchNormGate::open
                               : output ? BatchNormGate::output
                                        : BatchNormGate::input;
    return {data<T>(grad), data<T>(x), data<T>(output), gate};
  }
  Tensor empty_input() const { return empty(x, sizes_of(x), channels_last); }
  Tensor empty_residual() const { return output ? empty_input() : empty(x, {0}); }
};

Gradient checked(const Tensor& grad, const Tensor& input, const Tensor& mean, const Tensor& var,
                 const Optional& weight, const Optional& bias, const Optional& output, bool relu,
                 double eps) {
  check_batch_norm_relu(input, mean, var, weight, bias, eps, check_on_cpu);
  check_like_input(grad, "grad", input, check_on_cpu);
  check_like_input(output, "output", input, check_on_cpu);
  const bool channels_last = is_channels_last(input);
  return {contiguous_as(grad, channels_last),
          contiguous_as(input, channels_last),
          output ? Optional(contiguous_as(*output, channels_last)) : std::nullopt,
          channels_last,
          relu,
          shape_of(input, channels_last)};
}

// What is known of the channels before the sums are: center, and scale and gate where the mask is computed.
template <typename T, typename C = compute_t<T>>
BatchNormChannels prepare(const Gradient& gradient, const Tensor& mean, const Tensor& var,
                          const Optional& weight, const Optional& bias, double eps,
                          BatchNormMemory<C>& memory) {
  const BatchNormChannels channels{widened(weight, memory), widened(bias, memory), widened<C>(mean, memory),
                                   widened<C>(var, memory), eps};
  BatchNormCoefficients<C> forward = memory.coefficients;
  forward.offset = memory.coefficients.gate;
  batch_norm_kernels<T>().coefficients(gradient.shape, channels, 0, gradient.shape.c, forward);
  return channels;
}

using Backward = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// Where no mask is asked for, there is no pass that would copy `grad`: the residual's gradient is a copy.
void copy_open_gradient(const Gradient& gradient, const Tensor& grad_residual) {
  if (gradient.output && !gradient.relu) {
    Tensor to = grad_residual;
    torch::stable::copy_(to, gradient.grad);
  }
}

template <typename T>
void backward(const Gradient& gradient, const Tensor& mean, const Tensor& var, const Optional& weight,
              const Optional& bias, double eps, const Backward& results) {
  using C = compute_t<T>;
  const auto& kernels = batch_norm_backward_kernels<T>();
  const BatchNormShape& shape = gradient.shape;
  const BatchNormChunks chunks = batch_norm_chunks(shape);
  BatchNormMemory<C> memory(shape.c, chunks);
  const BatchNormChannels channels = prepare<T>(gradient, mean, var, weight, bias, eps, memory);
  const BatchNormGradient<T> pointers = gradient.pointers<T>();
  const auto& [grad_input, grad_residual, grad_weight, grad_bias] = results;
  T *grad_x = mutable_data<T>(grad_input), *masked = mutable_data<T>(grad_residual);
  C *to_weight = mutable_data<C>(grad_weight), *to_bias = mutable_data<C>(grad_bias);
  const double *sum = memory.partial, *sum_normal = sum + shape.c;
  const double share = 1 / static_cast<double>(shape.values() * shape.fold);
  const BatchNormCoefficients<C>& coefficients = memory.coefficients;
  reduce_then_apply(
      shape, chunks, memory.partial,
      [&](const BatchNormBlock& block, double* sums) {
        kernels.sums(shape, block, pointers, coefficients, sums);
      },
      [&](int64_t c_begin, int64_t c_end) {
        kernels.add_up(shape, chunks, c_begin, c_end, channels, memory.partial, to_weight, to_bias);
        kernels.coefficients(shape, channels, c_begin, c_end, sum, sum_normal, share, coefficients);
      },
      [&](const BatchNormBlock& block) {
        kernels.apply(shape, block, pointers, coefficients, true, grad_x, masked);
      });
}

Backward batch_norm_relu_backward(const Tensor& grad, const Tensor& input, const Tensor& mean,
                                  const Tensor& var, const Optional& weight, const Optional& bias,
                                  const Optional& output, bool relu, double eps) {
  const Gradient gradient = checked(grad, input, mean, var, weight, bias, output, relu, eps);
  const int64_t c = input.size(1);
  Backward results{gradient.empty_input(), gradient.empty_residual(), channel_values(input, c),
                   channel_values(input, c)};
  if (input.numel() == 0) {
    torch::stable::zero_(std::get<2>(results));
    torch::stable::zero_(std::get<3>(results));
    return results;
  }
  copy_open_gradient(gradient, std::get<1>(results));
  dispatch_floating(input, "input", [&](auto tag) {
    backward<typename decltype(tag)::type>(gradient, mean, var, weight, bias, eps, results);
  });
  return results;
}

using Sums = std::tuple<Tensor, Tensor>;

template <typename T>
void backward_sums(const Gradient& gradient, const Tensor& mean, const Tensor& var, const Optional& weight,
                   const Optional& bias, double eps, const Sums& sums) {
  using C = compute_t<T>;
  const auto& kernels = batch_norm_backward_kernels<T>();
  const BatchNormShape& shape = gradient.shape;
  const BatchNormChunks chunks = batch_norm_chunks(shape);
  BatchNormMemory<C> memory(shape.c, chunks);
  const BatchNormChannels channels = prepare<T>(gradient, mean, var, weight, bias, eps, memory);
  const BatchNormGradient<T> pointers = gradient.pointers<T>();
  C *sum = mutable_data<C>(std::get<0>(sums)), *sum_normal = mutable_data<C>(std::get<1>(sums));
  reduce_then_apply(
      shape, chunks, memory.partial,
      [&](const BatchNormBlock& block, double* partial) {
        kernels.sums(shape, block, pointers, memory.coefficients, partial);
      },
      [&](int64_t c_begin, int64_t c_end) {
        kernels.add_up(shape, chunks, c_begin, c_end, channels, memory.partial, sum_normal, sum);
      },
      [](const BatchNormBlock&) {});
}

Sums batch_norm_relu_backward_sums(const Tensor& grad, const Tensor& input, const Tensor& mean,
                                   const Tensor& var, const Optional& weight, const Optional& bias,
                                   const Optional& output, bool relu, double eps) {
  const Gradient gradient = checked(grad, input, mean, var, weight, bias, output, relu, eps);
  const int64_t c = input.size(1);
  Sums sums{channel_values(input, c), channel_values(input, c)};
  if (input.numel() == 0) {
    torch::stable::zero_(std::get<0>(sums));
    torch::stable::zero_(std::get<1>(sums));
    return sums;
  }
  dispatch_floating(input, "input", [&](auto tag) {
    backward_sums<typename decltype(tag)::type>(gradient, mean, var, weight, bias, eps, sums);
  });
  return sums;
}

using Gradients = std::tuple<Tensor, Tensor>;

template <typename T>
void backward_apply(const Gradient& gradient, const Tensor& mean, const Tensor& var, const Optional& weight,
                    const Optional& bias, const Tensor& sum, const Tensor& sum_normal, int64_t count,
                    double eps, const Gradients& results) {
  using C = compute_t<T>;
  const auto& kernels = batch_norm_backward_kernels<T>();
  const BatchNormShape& shape = gradient.shape;
  BatchNormMemory<C> memory(shape.c, {1, 0});
  const BatchNormChannels channels = prepare<T>(gradient, mean, var, weight, bias, eps, memory);
  double *sums = memory.partial, *sums_normal = sums + shape.c;
  widen_into(sum, sums);
  widen_into(sum_normal, sums_normal);
  kernels.coefficients(shape, channels, 0, shape.c, sums, sums_normal, 1 / static_cast<double>(count),
                       memory.coefficients);
  const BatchNormGradient<T> pointers = gradient.pointers<T>();
  T *grad_x = mutable_data<T>(std::get<0>(results)), *masked = mutable_data<T>(std::get<1>(results));
  apply_everywhere(shape, [&](const BatchNormBlock& block) {
    kernels.apply(shape, block, pointers, memory.coefficients, true, grad_x, masked);
  });
}

Gradients batch_norm_relu_backward_apply(const Tensor& grad, const Tensor& input, const Tensor& mean,
                                         const Tensor& var, const Optional& weight, const Optional& bias,
                                         const Optional& output, const Tensor& sum, const Tensor& sum_normal,
                                         int64_t count, bool relu, double eps) {
  const Gradient gradient = checked(grad, input, mean, var, weight, bias, output, relu, eps);
  check_batch_norm_parameters(input, {{"sum", sum}, {"sum_normal", sum_normal}}, check_on_cpu);
  check(count >= 1, "expected `count` of at least 1, but got ", count);
  Gradients results{gradient.empty_input(), gradient.empty_residual()};
  if (input.numel() == 0) return results;
  copy_open_gradient(gradient, std::get<1>(results));
  dispatch_floating(input, "input", [&](auto tag) {
    backward_apply<typename decltype(tag)::type>(gradient, mean, var, weight, bias, sum, sum_normal, count,
                                                 eps, results);
  });
  return results;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cnnext, CPU, m) {
  m.impl("batch_norm_relu", TORCH_BOX(&batch_norm_relu));
  m.impl("batch_norm_relu_backward", TORCH_BOX(&batch_norm_relu_backward));
  m.impl("batch_norm_relu_backward_sums", TORCH_BOX(&batch_norm_relu_backward_sums));
  m.impl("batch_norm_relu_backward_apply", TORCH_BOX(&batch_norm_relu_backward_apply));
}

}  // namespace cnnext
