// batch_norm's launches: from a config to a kernel, and from tensors to what a launch may touch.
#pragma once

#include "batch_norm_kernel.cuh"
#include "device/launch.cuh"

namespace cnnext {

// A call's shape, config and cut, the same for all of its launches.
struct BatchNormCall {
  BatchNormProblem problem;
  const BatchNormConfig& config;
  BatchNormPlan plan;
  cudaStream_t stream;

  BatchNormCall(const BatchNormProblem& problem, cudaStream_t stream)
      : problem(problem),
        config(choose_batch_norm_config(problem)),
        plan(batch_norm_plan(problem, config)),
        stream(stream) {}

  int64_t numel() const { return problem.values() * problem.c; }
  int64_t partials() const { return problem.c * 2 * plan.chunks; }
  std::string text() const { return std::string(config.name) + ", " + describe(problem); }

  device::LaunchConfig over_values(const char* kernel) const {
    return {kernel, dim3(static_cast<unsigned>(plan.blocks())), dim3(kBatchNormThreads), 0, stream};
  }
  device::LaunchConfig over_channels(const char* kernel, int per_block) const {
    return {kernel, dim3(static_cast<unsigned>(ceil_div<int64_t>(problem.c, per_block))), dim3(kMergeThreads),
            0, stream};
  }
};

// run(walk tag) with the walk of the config: tag.type is the class.
template <class Walk>
struct WalkTag {
  using type = Walk;
};
template <class T, class Run>
void with_walk(const BatchNormConfig& config, const Run& run) {
  constexpr int N = device::kMaxVector<T>;
  if (config.algorithm == BatchNormAlgorithm::kChannels) {
    config.vectors ? run(WalkTag<ChannelsWalk<N>>{}) : run(WalkTag<ChannelsWalk<1>>{});
  } else {
    config.vectors ? run(WalkTag<PlanesWalk<N>>{}) : run(WalkTag<PlanesWalk<1>>{});
  }
}

inline device::Memory values_of(const char* name, const ChannelValues& values, int64_t c) {
  constexpr int64_t kBytes[] = {4, 8, 2, 2};  // in the order of ChannelValues::Kind
  const int64_t count = values.data ? ((c - 1) * values.stride + 1) * kBytes[values.kind] : 0;
  return device::input(name, static_cast<const unsigned char*>(values.data), count);
}

template <class T>
device::Memory optional_input(const char* name, const T* data, int64_t count) {
  return device::input(name, data, data != nullptr ? count : 0);
}

// The coefficients are rows of one workspace.
template <class C>
BatchNormCoefficients<C> coefficients_in(C* workspace, int64_t c) {
  if (workspace == nullptr) return {nullptr, nullptr, nullptr, nullptr};
  return {workspace, workspace + c, workspace + 2 * c, workspace + 3 * c};
}

template <class T>
void launch_moments(const BatchNormCall& call, const T* x, double* partial) {
  with_walk<T>(call.config, [&](auto tag) {
    device::launch(
        call.over_values("batch_norm_moments_kernel"),
        {device::input("input", x, call.numel()), device::output("partial", partial, call.partials())},
        [&] { return call.text(); }, batch_norm_moments_kernel<T, typename decltype(tag)::type>, call.plan, x,
        partial);
  });
}

// partial of call.plan, to ⌈chunks / fold⌉ chunks.
inline void launch_fold_moments(const BatchNormCall& call, int fold, const double* partial, double* folded) {
  const int folds = ceil_div(call.plan.chunks, fold);
  device::LaunchConfig config = call.over_channels("batch_norm_fold_moments_kernel", kMergeChannels);
  config.grid.y = static_cast<unsigned>(folds);
  device::launch(
      config,
      {device::input("partial", partial, call.partials()),
       device::output("folded", folded, call.problem.c * 2 * folds)},
      [&] { return call.text(); }, batch_norm_fold_moments_kernel<double>, call.plan, fold, partial, folded);
}

template <class C>
void launch_merge_moments(const BatchNormCall& call, const double* partial, const ChannelValues& weight,
                          const ChannelValues& bias, double eps, C* mean, C* var, C* coefficients) {
  const int64_t c = call.problem.c;
  device::launch(
      call.over_channels("batch_norm_merge_moments_kernel", kMergeChannels),
      {device::input("partial", partial, call.partials()), values_of("weight", weight, c),
       values_of("bias", bias, c), device::output("mean", mean, c), device::output("var", var, c),
       device::output("coefficients", coefficients, coefficients != nullptr ? 3 * c : 0)},
      [&] { return call.text(); }, batch_norm_merge_moments_kernel<C>, call.plan, partial, weight, bias, eps,
      mean, var, coefficients_in(coefficients, c));
}

template <class C>
void launch_coefficients(const BatchNormCall& call, const ChannelValues& mean, const ChannelValues& var,
                         const ChannelValues& weight, const ChannelValues& bias, double eps,
                         C* coefficients) {
  const int64_t c = call.problem.c;
  device::launch(
      call.over_channels("batch_norm_coefficients_kernel", kMergeThreads),
      {values_of("mean", mean, c), values_of("var", var, c), values_of("weight", weight, c),
       values_of("bias", bias, c), device::output("coefficients", coefficients, 3 * c)},
      [&] { return call.text(); }, batch_norm_coefficients_kernel<C>, c, mean, var, weight, bias, eps,
      coefficients_in(coefficients, c));
}

// residual: null, or added to what is normalised.
template <class T>
void launch_apply(const BatchNormCall& call, const T* x, compute_t<T>* coefficients, const T* residual,
                  bool relu, T* y) {
  const int64_t c = call.problem.c;
  with_walk<T>(call.config, [&](auto tag) {
    device::launch(
        call.over_values("batch_norm_apply_kernel"),
        {device::input("input", x, call.numel()), device::input("coefficients", coefficients, 3 * c),
         optional_input("residual", residual, call.numel()), device::output("output", y, call.numel())},
        [&] { return call.text(); }, batch_norm_apply_kernel<T, typename decltype(tag)::type>, call.plan, x,
        coefficients_in(coefficients, c), residual, relu, y);
  });
}

// gated: null, or what the gate lets through.
template <class T>
void launch_backward_sums(const BatchNormCall& call, const T* grad, const T* x, const ChannelValues& mean,
                          const BatchNormGate<T>& gate, double* partial, T* gated) {
  const int64_t c = call.problem.c;
  with_walk<T>(call.config, [&](auto tag) {
    device::launch(
        call.over_values("batch_norm_backward_sums_kernel"),
        {device::input("grad", grad, call.numel()), device::input("input", x, call.numel()),
         values_of("mean", mean, c), optional_input("output", gate.output, call.numel()),
         optional_input("scale", gate.scale, c), optional_input("offset", gate.offset, c),
         device::output("partial", partial, call.partials()),
         device::output("gated", gated, gated != nullptr ? call.numel() : 0)},
        [&] { return call.text(); }, batch_norm_backward_sums_kernel<T, typename decltype(tag)::type>,
        call.plan, grad, x, mean, gate, partial, gated);
  });
}

template <class C>
void launch_merge_gradients(const BatchNormCall& call, const double* partial, const ChannelValues& weight,
                            const ChannelValues& mean, const ChannelValues& var, double eps, bool training,
                            C* grad_weight, C* grad_bias, C* coefficients) {
  const int64_t c = call.problem.c;
  device::launch(
      call.over_channels("batch_norm_merge_gradients_kernel", kMergeChannels),
      {device::input("partial", partial, call.partials()), values_of("weight", weight, c),
       values_of("mean", mean, c), values_of("var", var, c), device::output("grad_weight", grad_weight, c),
       device::output("grad_bias", grad_bias, c), device::output("coefficients", coefficients, 4 * c)},
      [&] { return call.text(); }, batch_norm_merge_gradients_kernel<C>, call.plan, partial, weight, mean,
      var, eps, training, grad_weight, grad_bias, coefficients_in(coefficients, c));
}

template <class C>
void launch_gradient_coefficients(const BatchNormCall& call, const ChannelValues& sum,
                                  const ChannelValues& sum_normal, const ChannelValues& weight,
                                  const ChannelValues& mean, const ChannelValues& var, double eps,
                                  int64_t count, C* coefficients) {
  const int64_t c = call.problem.c;
  device::launch(
      call.over_channels("batch_norm_gradient_coefficients_kernel", kMergeThreads),
      {values_of("sum", sum, c), values_of("sum_normal", sum_normal, c), values_of("weight", weight, c),
       values_of("mean", mean, c), values_of("var", var, c),
       device::output("coefficients", coefficients, 4 * c)},
      [&] { return call.text(); }, batch_norm_gradient_coefficients_kernel<C>, c, sum, sum_normal, weight,
      mean, var, eps, static_cast<double>(count), coefficients_in(coefficients, c));
}

// grad_residual: null, or what the gate lets through.
template <class T>
void launch_backward_apply(const BatchNormCall& call, const T* grad, const T* x, compute_t<T>* coefficients,
                           const BatchNormGate<T>& gate, bool training, T* grad_x, T* grad_residual) {
  const int64_t c = call.problem.c;
  const int64_t residuals = grad_residual != nullptr ? call.numel() : 0;
  with_walk<T>(call.config, [&](auto tag) {
    device::launch(
        call.over_values("batch_norm_backward_apply_kernel"),
        {device::input("grad", grad, call.numel()), device::input("input", x, call.numel()),
         device::input("coefficients", coefficients, 4 * c),
         optional_input("output", gate.output, call.numel()), optional_input("scale", gate.scale, c),
         optional_input("offset", gate.offset, c), device::output("grad_input", grad_x, call.numel()),
         device::output("grad_residual", grad_residual, residuals)},
        [&] { return call.text(); }, batch_norm_backward_apply_kernel<T, typename decltype(tag)::type>,
        call.plan, grad, x, coefficients_in(coefficients, c), gate, training, grad_x, grad_residual);
  });
}

template <class T>
void launch_update(int64_t c, T* running_mean, int64_t mean_stride, T* running_var, int64_t var_stride,
                   const ChannelValues& mean, const ChannelValues& var, int64_t count, double momentum,
                   cudaStream_t stream) {
  const double values = static_cast<double>(count), unbiased = values / (values - 1);
  device::launch(
      {"batch_norm_update_kernel", dim3(static_cast<unsigned>(ceil_div<int64_t>(c, kMergeThreads))),
       dim3(kMergeThreads), 0, stream},
      {device::inout("running_mean", running_mean, (c - 1) * mean_stride + 1),
       device::inout("running_var", running_var, (c - 1) * var_stride + 1), values_of("mean", mean, c),
       values_of("var", var, c)},
      [&] { return "c " + std::to_string(c); }, batch_norm_update_kernel<T>, c, running_mean, mean_stride,
      running_var, var_stride, mean, var, unbiased, momentum);
}

// The passes over tensors are compiled in batch_norm.cu, whoever launches them.
// CNNEXT_BATCH_NORM_PASSES(extern template, T) declares them, and with `template` alone it makes them.
#define CNNEXT_BATCH_NORM_PASSES(how, T)                                                           \
  how void launch_moments<T>(const BatchNormCall&, const T*, double*);                             \
  how void launch_apply<T>(const BatchNormCall&, const T*, compute_t<T>*, const T*, bool, T*);     \
  how void launch_backward_sums<T>(const BatchNormCall&, const T*, const T*, const ChannelValues&, \
                                   const BatchNormGate<T>&, double*, T*);                          \
  how void launch_backward_apply<T>(const BatchNormCall&, const T*, const T*, compute_t<T>*,       \
                                    const BatchNormGate<T>&, bool, T*, T*);

CNNEXT_BATCH_NORM_PASSES(extern template, float)
CNNEXT_BATCH_NORM_PASSES(extern template, double)
CNNEXT_BATCH_NORM_PASSES(extern template, __half)
CNNEXT_BATCH_NORM_PASSES(extern template, __nv_bfloat16)

}  // namespace cnnext
