// batch_norm on the CPU: checks, outputs, threads, registration.
#include "../torch/checks.h"
#include "../torch/dispatch.h"
#include "batch_norm_kernel.h"
#include "parallel.h"
#include "workspace.h"

namespace cnnext {
namespace {

// ---- checks
// -------------------------------------------------------------------------------------------------

ScalarType compute_dtype(const Tensor& input) {
  return input.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

struct Parameter {
  const char* name;
  const std::optional<Tensor>& tensor;
};

// One value per channel, all of `input`'s dtype or all of the one it is calculated in.
void check_parameters(const Tensor& input, std::initializer_list<Parameter> parameters) {
  const Parameter* first = nullptr;
  for (const Parameter& parameter : parameters) {
    if (!parameter.tensor) continue;
    const Tensor& tensor = *parameter.tensor;
    check_shape(tensor, parameter.name, {input.size(1)});
    check(tensor.is_cpu(), "expected `", parameter.name, "` on the CPU, as `input` is");
    const ScalarType dtype = tensor.scalar_type();
    check(dtype == input.scalar_type() || dtype == compute_dtype(input), "expected `", parameter.name,
          "` of dtype ", toString(input.scalar_type()), " or ", toString(compute_dtype(input)),
          " for `input` of dtype ", toString(input.scalar_type()), ", but got ", toString(dtype));
    if (first) check_same_dtype(*first->tensor, first->name, tensor, parameter.name);
    if (!first) first = &parameter;
  }
}

void check_eps(double eps, bool training) {
  check(training ? eps > 0 : eps >= 0, "expected `eps` to be ",
        training ? "positive in training" : "non-negative", ", but got ", eps);
}

// With one channel or one pixel both layouts are the same memory; the shape is then written for the longer
// inner loop.
BatchNormShape shape_of(const Tensor& input, bool channels_last) {
  const int64_t n = input.size(0), c = input.size(1), hw = input.size(2) * input.size(3);
  if (c == 1) return {1, 1, n * hw, false};
  return {n, c, hw, channels_last || hw == 1};
}

// ---- work split
// ---------------------------------------------------------------------------------------------

// At most kMostChunks pieces keep the merge cheap; pieces below kLeastChunk values do not repay it.
constexpr int64_t kMostChunks = 32, kLeastChunk = 8192;

BatchNormChunks chunks_of(const BatchNormShape& shape) {
  const int64_t values = shape.values();
  const int64_t most = shape.channels_last ? kMostChunks : ceil_div(kMostChunks, 2 * shape.c);
  const int64_t least = shape.channels_last ? ceil_div(kLeastChunk, shape.c) : kLeastChunk;
  const int64_t length = larger(round_up(ceil_div(values, most), int64_t{16}), least);
  return {ceil_div(values, length), length};
}

// What the kernels keep per channel, carved out of the calling thread's workspace.
template <typename C>
struct ChannelMemory {
  ChannelMemory(int64_t c, const BatchNormChunks& chunks)
      : c_(c), next_(workspace<double>(c * (2 * chunks.count + 4 + 4))), partial(take(2 * chunks.count)) {
    for (C** values :
         {&coefficients.center, &coefficients.scale, &coefficients.slope, &coefficients.offset}) {
      *values = reinterpret_cast<C*>(take(1));
    }
  }

  double* take(int64_t values_per_channel) {
    double* taken = next_;
    next_ += values_per_channel * c_;
    return taken;
  }

 private:
  int64_t c_;
  double* next_;

 public:
  double* partial;  // [chunks][2][c]
  BatchNormCoefficients<C> coefficients;
};

// A parameter or statistic in double, null if there is none.
template <typename C>
const double* widened(const std::optional<Tensor>& tensor, ChannelMemory<C>& memory) {
  if (!tensor) return nullptr;
  double* values = memory.take(1);
  const int64_t c = tensor->size(0), stride = tensor->stride(0);
  dispatch_floating(*tensor, "parameter", [&](auto tag) {
    using S = typename decltype(tag)::type;
    batch_norm_kernels<S>().widen(data<S>(*tensor), stride, values, c);
  });
  return values;
}

// Reduces, finishes and applies. NCHW with many channels goes channel by channel, so that the second pass
// finds the values in L2; otherwise the chunks of all channels come first.
//   reduce(block, partial of its chunk)   finish(c_begin, c_end)   apply(block)
template <typename Reduce, typename Finish, typename Apply>
void reduce_then_apply(const BatchNormShape& shape, const BatchNormChunks& chunks, double* partial,
                       const Reduce& reduce, const Finish& finish, const Apply& apply) {
  const int64_t values = shape.values(), c = shape.c;
  if (!shape.channels_last && chunks.count == 1) {
    return parallel_for(c, 2 * values, [&](int64_t begin, int64_t end) {
      for (int64_t channel = begin; channel < end; ++channel) {
        const BatchNormBlock block{0, values, channel, channel + 1};
        reduce(block, partial);
        finish(channel, channel + 1);
        apply(block);
      }
    });
  }
  const auto for_each_chunk = [&](const auto& run) {
    const int64_t groups = shape.channels_last ? 1 : c, width = c / groups;
    parallel_for(chunks.count * groups, chunks.length * width, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t chunk = task / groups, channel = task % groups * width, first = chunk * chunks.length;
        run(BatchNormBlock{first, smaller(first + chunks.length, values), channel, channel + width},
            partial + chunk * 2 * c);
      }
    });
  };
  for_each_chunk(reduce);
  finish(int64_t{0}, c);
  for_each_chunk([&](const BatchNormBlock& block, double*) { apply(block); });
}

// apply(block) over a whole tensor whose coefficients are known, in the order of memory.
template <typename Apply>
void apply_everywhere(const BatchNormShape& shape, const Apply& apply) {
  const int64_t c = shape.c, hw = shape.hw;
  if (shape.channels_last) {
    return parallel_for(shape.values(), c,
                        [&](int64_t begin, int64_t end) { apply(BatchNormBlock{begin, end, 0, c}); });
  }
  parallel_for(shape.n * c, hw, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end;) {
      const int64_t n = plane / c, planes = smaller(end - plane, c - plane % c);
      apply(BatchNormBlock{n * hw, (n + 1) * hw, plane % c, plane % c + planes});
      plane += planes;
    }
  });
}

// ---- the ops
// ------------------------------------------------------------------------------------------------

using Outputs = std::tuple<Tensor, Tensor, Tensor>;

Tensor channel_values(const Tensor& input, int64_t c) { return empty(input, {c}, compute_dtype(input)); }

template <typename T>
void forward(const Tensor& x, const BatchNormShape& shape, const std::optional<Tensor>& weight,
             const std::optional<Tensor>& bias, const std::optional<Tensor>& running_mean,
             const std::optional<Tensor>& running_var, bool training, double eps, const Outputs& outputs) {
  using C = compute_t<T>;
  const auto& kernels = batch_norm_kernels<T>();
  const BatchNormChunks chunks = training ? chunks_of(shape) : BatchNormChunks{0, 0};
  ChannelMemory<C> memory(shape.c, chunks);
  BatchNormChannels channels{widened(weight, memory), widened(bias, memory), nullptr, nullptr, eps};
  T* y = mutable_data<T>(std::get<0>(outputs));
  const auto apply = [&](const BatchNormBlock& block) {
    kernels.apply(shape, block, data<T>(x), memory.coefficients, y);
  };
  if (!training) {
    channels.mean = widened(running_mean, memory);
    channels.var = widened(running_var, memory);
    kernels.coefficients(channels, 0, shape.c, memory.coefficients);
    return apply_everywhere(shape, apply);
  }
  channels.mean = memory.partial;
  channels.var = memory.partial + shape.c;
  C *mean = mutable_data<C>(std::get<1>(outputs)), *var = mutable_data<C>(std::get<2>(outputs));
  reduce_then_apply(
      shape, chunks, memory.partial,
      [&](const BatchNormBlock& block, double* sums) { kernels.moments(shape, block, data<T>(x), sums); },
      [&](int64_t c_begin, int64_t c_end) {
        kernels.merge_moments(shape, chunks, c_begin, c_end, memory.partial, mean, var);
        kernels.coefficients(channels, c_begin, c_end, memory.coefficients);
      },
      apply);
}

Outputs batch_norm(const Tensor& input, const std::optional<Tensor>& weight,
                   const std::optional<Tensor>& bias, const std::optional<Tensor>& running_mean,
                   const std::optional<Tensor>& running_var, bool training, double eps) {
  check_rank(input, "input", 4);
  check(training || (running_mean && running_var),
        "expected `running_mean` and `running_var` without training");
  check_eps(eps, training);
  check_parameters(
      input,
      {{"weight", weight}, {"bias", bias}, {"running_mean", running_mean}, {"running_var", running_var}});
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
  const BatchNormChunks chunks = chunks_of(shape);
  ChannelMemory<C> memory(shape.c, chunks);
  const BatchNormChannels channels{widened(weight, memory), nullptr, widened(mean, memory),
                                   widened(var, memory), eps};
  T* grad_x = mutable_data<T>(std::get<0>(gradients));
  C *grad_weight = mutable_data<C>(std::get<1>(gradients)),
    *grad_bias = mutable_data<C>(std::get<2>(gradients));
  reduce_then_apply(
      shape, chunks, memory.partial,
      [&](const BatchNormBlock& block, double* sums) {
        kernels.sums(shape, block, data<T>(grad), data<T>(x), channels.mean, sums);
      },
      [&](int64_t c_begin, int64_t c_end) {
        kernels.coefficients(shape, chunks, c_begin, c_end, memory.partial, channels, training,
                             memory.coefficients, grad_weight, grad_bias);
      },
      [&](const BatchNormBlock& block) {
        kernels.apply(shape, block, data<T>(grad), data<T>(x), memory.coefficients, training, grad_x);
      });
}

Outputs batch_norm_backward(const Tensor& grad, const Tensor& input, const std::optional<Tensor>& weight,
                            const Tensor& mean, const Tensor& var, bool training, double eps) {
  check_rank(input, "input", 4);
  check_shape(grad, "grad", sizes_of(input));
  check_same_dtype(grad, "grad", input, "input");
  check(grad.is_cpu(), "expected `grad` on the CPU, as `input` is");
  check_eps(eps, training);
  check_parameters(input, {{"weight", weight}});
  check_parameters(input, {{"mean", mean}, {"var", var}});
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
  check_rank(running_mean, "running_mean", 1);
  const int64_t c = running_mean.size(0);
  check_shape(running_var, "running_var", {c});
  check_shape(mean, "mean", {c});
  check_shape(var, "var", {c});
  check_same_dtype(running_mean, "running_mean", running_var, "running_var");
  check(running_mean.is_cpu() && running_var.is_cpu() && mean.is_cpu() && var.is_cpu(),
        "expected `running_mean`, `running_var`, `mean` and `var` on the CPU");
  check(c < 2 || (running_mean.stride(0) != 0 && running_var.stride(0) != 0),
        "expected `running_mean` and `running_var` not to be expanded: they are written to");
  check(count >= 2, "expected `count` of at least 2 values for an unbiased variance, but got ", count);
  dispatch_floating(running_mean, "running_mean", [&](auto tag) {
    using T = typename decltype(tag)::type;
    ChannelMemory<compute_t<T>> memory(c, {0, 0});
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
