// The direct convolution of few channels on tensors: scratch and threads, and what it refuses.
// Activations are dense in the layout that `channels_last` says; a weight may lie in either.
#pragma once

#include "../torch/checks.h"
#include "../torch/dispatch.h"
#include "conv2d_direct_kernel.h"
#include "conv2d_direct_weight_kernel.h"
#include "conv2d_epilogue.h"
#include "parallel.h"
#include "workspace.h"

namespace cnnext {

// Products that one output sums. With a stride an input gradient is reached by only some of the taps.
inline int64_t direct_products(const Conv2dShape& shape, Conv2dPass pass) {
  const int64_t taps = shape.r * shape.s;
  if (pass != Conv2dPass::backward_input) return shape.group_c() * taps;
  return shape.group_k() * ceil_div(taps, shape.stride_h * shape.stride_w);
}

// Why the direct algorithm cannot run a case; null if it can. A pure function.
inline const char* direct_refuses(const Conv2dShape& shape, Conv2dPass pass) {
  constexpr int64_t kMostScratch = 8 << 20;   // values: 32 MiB of float for every thread
  constexpr int64_t kMostProducts = 256 * 9;  // beyond them the chains of additions are longer than torch's
  if (shape.n * shape.p * shape.q == 0 || shape.h * shape.w == 0)
    return "the direct convolution needs a pixel";
  if (direct_products(shape, pass) > kMostProducts)
    return "the direct convolution sums at most 2304 products";
  // The widest vectors have 16 lanes; narrow storage needs the most scratch. Either layout must be possible.
  for (bool channels_last : {false, true}) {
    const bool backward = pass == Conv2dPass::backward_input;
    const GatherPlan gather = plan_gather(shape, backward, channels_last, channels_last, 16, 4, true);
    int64_t scratch = gather.scratch();
    if (pass == Conv2dPass::backward_weight) {
      const WeightGradPlan plan = plan_weight_grad(shape, channels_last, channels_last, 16, 4, true);
      scratch = plan.x.source_size + plan.grad_size + plan.sums + plan.chunks * plan.partial_size();
    }
    if (scratch > kMostScratch) return "the direct convolution would need more than 32 MiB of scratch";
  }
  return nullptr;
}

// The part of the output that a unit of a forward plan writes.
inline BatchNormBlock direct_block(const GatherPlan& plan, int64_t unit) {
  const int64_t channels = plan.groups * plan.out, plane = plan.h.out * plan.w.out;
  if (plan.lanes == DirectLanes::images) {
    const int64_t first = unit * plan.vector;
    return {first * plane, smaller(first + plan.vector, plan.n) * plane, 0, channels};
  }
  const int64_t image = unit / plan.bands * plane, row = unit % plan.bands * plan.band_rows;
  return {image + row * plan.w.out, image + smaller(row + plan.band_rows, plan.h.out) * plan.w.out, 0,
          channels};
}

template <typename T>
void direct_gather(const Conv2dShape& shape, bool backward, const Tensor& source, const Tensor& weight,
                   const std::optional<Tensor>& bias, const Tensor& out, bool channels_last,
                   const Conv2dFusion<compute_t<T>>& fusion) {
  using C = compute_t<T>;
  const auto& kernels = conv2d_direct_kernels<T>();
  const GatherPlan plan = plan_gather(shape, backward, channels_last, channels_last, kernels.vector,
                                      sizeof(C), sizeof(C) != sizeof(T));
  const Tensor w = contiguous_as(weight, false);
  const int64_t work = shape.gemm_m() / plan.units() * shape.gemm_k() * shape.k;
  if (fusion.epilogue) fusion.epilogue->expect(plan.units());
  parallel_for(plan.units(), work, [&](int64_t begin, int64_t end) {
    void* const scratch = workspace<char>(plan.scratch_bytes(sizeof(C)));
    kernels.prepare(plan, data<T>(w), data<T>(bias), scratch);
    for (int64_t unit = begin; unit < end; ++unit) {
      kernels.gather(plan, data<T>(source), fusion.prologue, mutable_data<T>(out), scratch, unit,
                     unit == begin);
      if (fusion.epilogue) fusion.epilogue->finish(unit, direct_block(plan, unit));
    }
  });
}

template <typename T>
void direct_forward(const Conv2dShape& shape, const Tensor& x, const Tensor& weight,
                    const std::optional<Tensor>& bias, const Tensor& output, bool channels_last,
                    const Conv2dFusion<compute_t<T>>& fusion) {
  direct_gather<T>(shape, false, x, weight, bias, output, channels_last, fusion);
}

template <typename T>
void direct_backward_input(const Conv2dShape& shape, const Tensor& grad, const Tensor& weight,
                           const Tensor& grad_input, bool channels_last) {
  direct_gather<T>(shape, true, grad, weight, std::nullopt, grad_input, channels_last, {});
}

template <typename T>
void direct_backward_weight(const Conv2dShape& shape, const Tensor& grad, const Tensor& x,
                            const Conv2dPrologue<compute_t<T>>& prologue, const Tensor& grad_weight,
                            const Tensor& grad_bias, bool channels_last) {
  using C = compute_t<T>;
  const auto& kernels = conv2d_direct_weight_kernels<T>();
  const WeightGradPlan plan = plan_weight_grad(shape, channels_last, channels_last, kernels.vector, sizeof(C),
                                               sizeof(C) != sizeof(T));
  const int64_t bytes = plan.chunks * plan.partial_size() * static_cast<int64_t>(sizeof(C));
  const Tensor partials_tensor = empty(x, {bytes}, ScalarType::Byte);
  C* partials = mutable_data<C>(partials_tensor);
  const int64_t work = shape.gemm_m() / plan.chunks * shape.gemm_k() * shape.k;
  parallel_for(plan.chunks, work, [&](int64_t begin, int64_t end) {
    kernels.backward_weight(plan, data<T>(grad), data<T>(x), prologue, partials,
                            workspace<char>(plan.scratch_bytes(sizeof(C))), begin, end);
  });
  kernels.add_partials(plan, partials, mutable_data<T>(grad_weight), mutable_data<T>(grad_bias),
                       workspace<char>(plan.scratch_bytes(sizeof(C))));
}

}  // namespace cnnext
