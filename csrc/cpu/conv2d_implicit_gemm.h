// The implicit GEMM on tensors: scratch, threads, and the gathers of each pass. Tensors are dense in the
// layout that `channels_last` says; weights are [k, c/g, r, s].
#pragma once

#include <tuple>

#include "../torch/checks.h"
#include "../torch/dispatch.h"
#include "conv2d_kernel.h"
#include "parallel.h"
#include "workspace.h"

namespace cnnext {

// Fewer tasks than this and the output channels are shared out too, so that every core has work.
inline constexpr int64_t kWantedTasks = 16;

template <typename T>
inline constexpr ScalarType kComputeDtype =
    sizeof(compute_t<T>) == 8 ? ScalarType::Double : ScalarType::Float;

// An activation as [n, h, w, c] in the compute type: itself, or a copy that `keep` holds.
template <typename T>
const compute_t<T>* as_channels_last(const Tensor& x, bool channels_last, Tensor& keep) {
  const int64_t n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  if constexpr (sizeof(T) >= 4) {
    if (channels_last || c == 1 || h * w == 1) return data<T>(x);
  }
  keep = empty(x, {n, h, w, c}, kComputeDtype<T>);
  parallel_for(n * h, w * c, [&](int64_t begin, int64_t end) {
    conv2d_kernels<T>().to_channels_last(data<T>(x), mutable_data<compute_t<T>>(keep), c, h, w, channels_last,
                                         begin, end);
  });
  return data<compute_t<T>>(keep);
}

// Strides of the weight as a gather sees it: group, output channel, input channel.
struct WeightSteps {
  int64_t group, out, in;
};

// Strides of a weight that is dense as [k, c/g, r, s] or as [k, r, s, c/g].
struct WeightLayout {
  int64_t group, k, c, tap;
};

inline WeightLayout weight_layout(const Conv2dShape& shape, const Tensor& weight) {
  const bool channels_last = is_channels_last(weight);
  const int64_t per_k = shape.gemm_k();
  if (channels_last) return {shape.group_k() * per_k, per_k, 1, shape.group_c()};
  return {shape.group_k() * per_k, per_k, shape.r * shape.s, 1};
}

template <typename T>
void run_gather(const Conv2dGather& gather, const compute_t<T>* source, const Tensor& weight,
                WeightSteps steps, const T* bias, T* out) {
  using C = compute_t<T>;
  const auto& kernels = conv2d_kernels<T>();
  const Conv2dTiles tiles = kernels.tiles(gather.out);
  const int64_t channel_tiles = ceil_div(gather.out, tiles.channels);
  const Tensor packed_tensor =
      empty(weight, {gather.groups * channel_tiles * tiles.channels * gather.gemm_k()}, kComputeDtype<T>);
  C* packed = mutable_data<C>(packed_tensor);
  parallel_for(
      gather.groups * channel_tiles, tiles.channels * gather.gemm_k(), [&](int64_t begin, int64_t end) {
        kernels.pack_weight(gather, data<T>(weight), steps.group, steps.out, steps.in, packed, begin, end);
      });
  const int64_t blocks = ceil_div(gather.pixels(), tiles.pixels);
  const int64_t shares =
      smaller(channel_tiles, ceil_div(kWantedTasks, larger<int64_t>(1, blocks * gather.groups)));
  const int64_t work = tiles.pixels * gather.gemm_k() * gather.out / shares;
  parallel_for(blocks * gather.groups * shares, work, [&](int64_t begin, int64_t end) {
    C* scratch = workspace<C>(kernels.gather_scratch(gather));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t share = task % shares, group = task / shares % gather.groups;
      const int64_t block = task / shares / gather.groups;
      kernels.gather(gather, source, packed, bias, out, scratch, group, block * tiles.pixels,
                     channel_tiles * share / shares, channel_tiles * (share + 1) / shares);
    }
  });
}

template <typename T>
void implicit_gemm_forward(const Conv2dShape& shape, const Tensor& x, const Tensor& weight,
                           const std::optional<Tensor>& bias, const Tensor& output, bool channels_last) {
  const WeightLayout layout = weight_layout(shape, weight);
  std::vector<Conv2dTap> taps;
  for (int64_t r = 0; r < shape.r; ++r) {
    for (int64_t s = 0; s < shape.s; ++s) {
      taps.push_back(
          {r * shape.dil_h - shape.pad_h, s * shape.dil_w - shape.pad_w, (r * shape.s + s) * layout.tap});
    }
  }
  Tensor keep;
  const auto* source = as_channels_last<T>(x, channels_last, keep);
  const Conv2dGather gather{shape.n,
                            shape.groups,
                            shape.group_c(),
                            shape.h,
                            shape.w,
                            shape.group_k(),
                            shape.p,
                            shape.q,
                            shape.p,
                            shape.q,
                            shape.stride_h,
                            shape.stride_w,
                            0,
                            1,
                            0,
                            1,
                            taps.data(),
                            shape.r * shape.s,
                            channels_last};
  run_gather<T>(gather, source, weight, {layout.group, layout.k, layout.c}, data<T>(bias),
                mutable_data<T>(output));
}

// Input pixels of residue (a, b) by the stride are reached by the taps with a + pad ≡ r·dil: they form a
// correlation of stride 1 over the output gradient.
template <typename T>
void implicit_gemm_backward_input(const Conv2dShape& shape, const Tensor& grad, const Tensor& weight,
                                  const Tensor& grad_input, bool channels_last) {
  Tensor keep;
  const auto* source = as_channels_last<T>(grad, channels_last, keep);
  const WeightLayout layout = weight_layout(shape, weight);
  for (int64_t a = 0; a < smaller(shape.stride_h, shape.h); ++a) {
    for (int64_t b = 0; b < smaller(shape.stride_w, shape.w); ++b) {
      std::vector<Conv2dTap> taps;
      for (int64_t r = 0; r < shape.r; ++r) {
        for (int64_t s = 0; s < shape.s; ++s) {
          const int64_t dh = a + shape.pad_h - r * shape.dil_h, dw = b + shape.pad_w - s * shape.dil_w;
          if (dh % shape.stride_h == 0 && dw % shape.stride_w == 0) {
            taps.push_back({dh / shape.stride_h, dw / shape.stride_w, (r * shape.s + s) * layout.tap});
          }
        }
      }
      const Conv2dGather gather{shape.n,
                                shape.groups,
                                shape.group_k(),
                                shape.p,
                                shape.q,
                                shape.group_c(),
                                shape.h,
                                shape.w,
                                ceil_div(shape.h - a, shape.stride_h),
                                ceil_div(shape.w - b, shape.stride_w),
                                1,
                                1,
                                a,
                                shape.stride_h,
                                b,
                                shape.stride_w,
                                taps.data(),
                                static_cast<int64_t>(taps.size()),
                                channels_last};
      run_gather<T>(gather, source, weight, {layout.group, layout.c, layout.k},
                    static_cast<const T*>(nullptr), mutable_data<T>(grad_input));
    }
  }
}

template <typename T>
void implicit_gemm_backward_weight(const Conv2dShape& shape, const Tensor& grad, const Tensor& x,
                                   const Tensor& grad_weight, const Tensor& grad_bias, bool channels_last) {
  using C = compute_t<T>;
  const auto& kernels = conv2d_kernels<T>();
  Conv2dWeightPlan plan{shape, 1, kernels.tiles(shape.group_k()).channels, 0};
  plan.tiles = ceil_div(shape.group_k(), plan.channel_tile);
  const int64_t wanted = ceil_div(kWantedTasks, shape.groups * plan.tiles);
  plan.chunks = larger<int64_t>(1, smaller(wanted, shape.n * shape.p));
  Tensor keep_x, keep_grad;
  const C* x_data = as_channels_last<T>(x, channels_last, keep_x);
  const C* grad_data = as_channels_last<T>(grad, channels_last, keep_grad);
  const Tensor sums_tensor = empty(x, {plan.chunks * plan.sums()}, kComputeDtype<T>);
  C* sums = mutable_data<C>(sums_tensor);
  const int64_t work = ceil_div(shape.gemm_m(), plan.chunks) * shape.gemm_k() * plan.channel_tile;
  parallel_for(plan.tasks(), work, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) kernels.weight_sums(plan, x_data, grad_data, sums, task);
  });
  const int64_t reduce_work = shape.group_k() * shape.r * shape.s * plan.chunks;
  parallel_for(shape.c, reduce_work, [&](int64_t begin, int64_t end) {
    kernels.weight_reduce(plan, sums, mutable_data<T>(grad_weight), begin, end);
  });
  kernels.bias_reduce(plan, sums, mutable_data<T>(grad_bias));
}

}  // namespace cnnext
