// The implicit GEMM's weight gradient on tensors: scratch, threads, and how the pixels are cut.
#pragma once

#include "conv2d_implicit_gemm.h"

namespace cnnext {

// A strip's pixels are summed in registers. Longer chains of float additions lose bits, so a short reduction
// is cut too: the error grows with the chain and with the number of chains.
inline Conv2dWeightPlan plan_weight(const Conv2dShape& shape, int64_t channel_tile) {
  constexpr int64_t kLongestChain = 64, kFewestChains = 4;
  Conv2dWeightPlan plan{shape, channel_tile, ceil_div(shape.group_k(), channel_tile), 1, 1, 1};
  const int64_t pixels = smaller(kLongestChain, ceil_div(shape.gemm_m(), kFewestChains)),
                per_image = shape.p * shape.q;
  if (per_image <= pixels) {
    plan.strip_rows = shape.p;
    plan.strip_images = pixels / per_image;
  } else {
    plan.strip_rows = larger<int64_t>(1, pixels / shape.q);
  }
  const int64_t wanted = ceil_div(kWantedTasks, shape.groups * plan.tiles);
  plan.chunks = larger<int64_t>(1, smaller(wanted, plan.strips()));
  return plan;
}

template <typename T>
void implicit_gemm_backward_weight(const Conv2dShape& shape, const Tensor& grad, const Tensor& x,
                                   const Conv2dPrologue<compute_t<T>>& prologue, const Tensor& grad_weight,
                                   const Tensor& grad_bias, bool channels_last) {
  using C = compute_t<T>;
  const auto& kernels = conv2d_kernels<T>();
  const int64_t image = larger(shape.c * shape.h * shape.w, shape.k * shape.p * shape.q);
  const bool ready = lies_ready<T>(x, prologue, channels_last) && lies_ready<T>(grad, {}, channels_last);
  const int64_t batch = ready ? shape.n : images_per_batch(shape.n, image * static_cast<int64_t>(sizeof(C)));
  Conv2dShape part = shape;
  part.n = batch;
  Conv2dWeightPlan plan = plan_weight(part, kernels.tiles(shape.group_k()).channels);
  const int64_t chunk_step = shape.groups * plan.tiles * plan.task_sums();
  C* const sums = shared_buffer<SharedBuffer::weight, C>(plan.chunks * chunk_step);
  if (shape.n == 0) std::fill(sums, sums + chunk_step, C{0});
  for (int64_t first = 0; first < shape.n; first += batch) {
    plan.shape.n = smaller(batch, shape.n - first);
    const C* x_data =
        as_channels_last<SharedBuffer::source, T>(x, prologue, channels_last, first, plan.shape.n);
    const C* grad_data =
        as_channels_last<SharedBuffer::second_source, T>(grad, {}, channels_last, first, plan.shape.n);
    const int64_t work = ceil_div(plan.shape.gemm_m(), plan.chunks) * shape.gemm_k() * plan.channel_tile;
    parallel_for(plan.tasks(), work, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        kernels.weight_sums(plan, x_data, grad_data, sums + task * plan.task_sums(), task, first == 0);
      }
    });
  }
  const int64_t reduce_work = plan.kReduceChannels * shape.r * shape.s * plan.channel_tile * plan.chunks;
  parallel_for(plan.reduce_units(), reduce_work, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const C* task_sums = sums + unit / plan.reduce_blocks() * plan.task_sums();
      kernels.weight_reduce(plan, task_sums, chunk_step, mutable_data<T>(grad_weight),
                            mutable_data<T>(grad_bias), unit);
    }
  });
}

}  // namespace cnnext
