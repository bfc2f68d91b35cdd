// The direct convolution's weight gradient, planned.
//
//   grad_weight[k, c, r, s] = Σ_{n,p,q} grad[n, k, p, q] · x[n, c, p·stride_h − pad_h + r·dil_h, …]
//
// The units, bands of rows of an image, are dealt to a fixed number of chunks; a chunk's sums are written
// out, and the chunks added in their order, so that the result does not depend on the number of threads.
#pragma once

#include "conv2d_direct_plan.h"

namespace cnnext {

struct WeightGradPlan {
  GatherPlan x, grad;  // the packed bands: x as the forward pass reads it, grad by rows of pixels
  DirectLanes lanes;
  int64_t k, c;          // of a group
  bool grad_in_place;    // the gradient is read where it lies
  int64_t chunks;        // fixed by the shape
  int64_t blocks, sums;  // blocks of output channels of a step, and sums of a chunk, of the compute type
  int64_t grad_size;

  int64_t groups() const { return x.groups; }
  int64_t taps() const { return c * x.taps(); }  // sums of one output channel
  int64_t bias_sum(int64_t block) const { return (x.steps() * blocks * taps() + block) * x.vector; }
  // A chunk's result, whole vectors: its sums, the lanes of each added up if they are pixels.
  int64_t partial_width() const { return lanes == DirectLanes::pixels ? 1 : x.vector; }
  int64_t partial_size() const { return round_up(sums / x.vector * partial_width(), x.vector); }
  int64_t first_unit(int64_t chunk) const { return chunk * x.units() / chunks; }
  // Run offsets and lengths and places of the sums, at most one each for a tap.
  int64_t scratch_bytes(int64_t compute_size) const {
    return (x.source_size + grad_size + sums) * compute_size + 3 * taps() * 8;
  }
};

// Lanes over output channels waste part of a vector, lanes over pixels part of a row; transposing the
// gradient costs about as much as 8 taps.
inline DirectLanes weight_grad_lanes(const GatherPlan& x, int64_t k, bool channels_last) {
  if (x.lanes == DirectLanes::depthwise) return DirectLanes::depthwise;
  if (k * 2 < x.vector) return DirectLanes::pixels;
  constexpr double kTranspose = 6, kUnaligned = 1.35;
  const double taps = static_cast<double>(x.in * x.taps());
  const int64_t cols = x.w.count(0);
  const double pixels =
      taps * kUnaligned * round_up(cols, x.vector) / cols + (channels_last ? kTranspose : 0);
  const double channels = taps * round_up(k, x.vector) / k + (channels_last ? 0 : kTranspose);
  return pixels <= channels ? DirectLanes::pixels : DirectLanes::channels;
}

// Rows of the gradient as a source that is read tap for tap where it lies: no padding, no stride.
inline GatherPlan plan_grad_rows(const GatherPlan& x, DirectLanes lanes, int64_t k, bool channels_last) {
  GatherPlan grad = x;
  grad.in = lanes == DirectLanes::depthwise ? 1 : k;
  grad.h = gather_axis(x.h.out, x.h.out, 1, 1, 0, 1, false);
  grad.w = gather_axis(x.w.out, x.w.out, 1, 1, 0, 1, false);
  grad.source_channels_last = channels_last && k * x.groups > 1;
  grad.phase_pitch = lanes == DirectLanes::pixels ? round_up(x.w.out, x.vector) : x.w.out * x.vector;
  grad.row_pitch = grad.phase_pitch;
  grad.plane = x.band_rows * grad.row_pitch + x.vector;
  return grad;
}

inline WeightGradPlan plan_weight_grad(const Conv2dShape& shape, bool grad_channels_last,
                                       bool x_channels_last, int64_t vector, int64_t compute_size,
                                       bool narrow_storage) {
  constexpr int64_t kMostChunks = 32, kFewestPixels = 1024, kWidestPixelsBlock = 4;
  WeightGradPlan plan{};
  plan.x = plan_gather(shape, false, x_channels_last, grad_channels_last, vector, compute_size,
                       narrow_storage, false);
  plan.k = plan.x.out;
  plan.c = plan.x.in;
  plan.lanes = weight_grad_lanes(plan.x, plan.k, grad_channels_last);
  plan.x.lanes = plan.lanes;
  plan.grad = plan_grad_rows(plan.x, plan.lanes, plan.k, grad_channels_last);
  const bool lies_ready =
      plan.lanes == DirectLanes::pixels
          ? !plan.grad.source_channels_last
          : plan.lanes == DirectLanes::channels && plan.grad.source_channels_last && plan.k % vector == 0;
  plan.grad_in_place = lies_ready && !narrow_storage;
  const int64_t pixels = shape.n * shape.p * shape.q;
  plan.chunks = smaller(smaller(plan.x.units(), kMostChunks), larger<int64_t>(1, pixels / kFewestPixels));
  plan.blocks = plan.lanes == DirectLanes::pixels ? plan.k : ceil_div(plan.k, vector);
  plan.sums = plan.x.steps() * plan.blocks * (plan.taps() + 1) * vector;
  plan.grad_size =
      smaller(kWidestPixelsBlock, plan.lanes == DirectLanes::pixels ? plan.k : 1) * plan.grad.plane +
      vector * vector;
  return plan;
}

}  // namespace cnnext
