// The direct convolution of few channels, planned: a pure function from a shape to lanes, bands and scratch.
//
// Forward and input gradient are one algorithm, a gather. Along each axis
//     out[i·out_step + phase] = Σ over the taps of that phase of  source[i·source_step + offset(tap)] ·
//     weight[tap].
// Forward has source_step = stride and one phase; the input gradient has out_step = stride, so that each
// phase uses only the taps that reach it and nothing is multiplied with the zeros between the strides.
#pragma once

#include "../common/conv2d_shape.h"
#include "../common/math.h"

namespace cnnext {

// What the lanes of a vector hold. pixels: neighbours of one output row, the source being split by column
// phase so that they are neighbours in memory for every stride. channels: output channels, from half a vector
// of them on. depthwise: channels of a channels_last image that do not mix. images: the same pixel of several
// small images.
enum class DirectLanes { pixels, channels, depthwise, images };

struct GatherAxis {
  int64_t source, out;            // extents
  int64_t source_step, out_step;  // one of them is the stride, the other one is 1
  int64_t taps, dilation, pad;
  bool reversed;  // whether later taps read earlier positions, as in the input gradient

  int64_t phase(int64_t tap) const {
    const int64_t at = tap * dilation - pad;
    return reversed ? at - floor_div(at, out_step) * out_step : 0;
  }
  int64_t offset(int64_t tap) const {
    const int64_t at = tap * dilation - pad;
    return reversed ? (phase(tap) - at) / out_step : at;
  }
  int64_t first_offset() const { return offset(reversed ? taps - 1 : 0); }
  int64_t last_offset() const { return offset(reversed ? 0 : taps - 1); }
  // Products of a row of outputs (or a column) with source and taps in reach, padding left out.
  int64_t products_inside() const {
    int64_t products = 0;
    for (int64_t t = 0; t < taps; ++t) {
      products += larger<int64_t>(0, smaller(out, source - offset(t)) - larger<int64_t>(0, -offset(t)));
    }
    return products;
  }
  // Positions i of a phase; phase 0 has the most.
  int64_t count(int64_t of_phase) const { return of_phase < out ? ceil_div(out - of_phase, out_step) : 0; }
};

inline GatherAxis gather_axis(int64_t in, int64_t out, int64_t taps, int64_t stride, int64_t pad,
                              int64_t dilation, bool backward) {
  if (backward) return {out, in, 1, stride, taps, dilation, pad, true};
  return {in, out, stride, 1, taps, dilation, pad, false};
}

// How the kernels see one call; every size counts elements of the compute type unless it says bytes.
struct GatherPlan {
  int64_t n, groups, in, out;  // in and out: channels of a group, of the source and of the output
  GatherAxis h, w;
  bool source_channels_last, out_channels_last, direct_store;
  DirectLanes lanes;
  int64_t vector;                         // lanes of a vector
  int64_t out_padded;                     // out, rounded up to whole vectors where the lanes are channels
  int64_t phase_pitch, row_pitch, plane;  // of the padded source band: column phase, row, channel
  int64_t band_rows, bands;               // positions i of the vertical axis in a band
  int64_t weight_step, bias_step;         // packed sizes of one step
  int64_t weight_size, bias_size, source_size, store_size, offsets;

  // What threads share out: bands of rows of an image, or vectors of images.
  int64_t units() const { return lanes == DirectLanes::images ? ceil_div(n, vector) : n * bands; }
  // Groups that are computed one after the other: in depthwise lanes a vector holds many.
  int64_t steps() const { return lanes == DirectLanes::depthwise ? ceil_div(groups, vector) : groups; }
  int64_t source_rows(int64_t rows) const {
    return (rows - 1) * h.source_step + h.last_offset() - h.first_offset() + 1;
  }
  int64_t taps() const { return h.taps * w.taps; }
  int64_t phases() const { return h.out_step * w.out_step; }
  int64_t totals_size() const { return 28 * vector; }  // the sums of the largest tile
  int64_t scratch() const { return weight_size + bias_size + totals_size() + source_size + store_size; }
  int64_t scratch_bytes(int64_t compute_size) const { return scratch() * compute_size + offsets * 8; }
};

// Lanes over images, against lanes over pixels: multiply-adds of an image, in vectors, plus about 5 for every
// vector that is transposed. Tiles leave out fewer columns than there are, and L2 gives less than L1.
inline bool images_are_better(const GatherPlan& plan) {
  constexpr int64_t kMostBytes = 512 * 1024, kLongestChain = 32;
  constexpr double kTranspose = 5, kOverhead = 1.25;
  const GatherAxis &h = plan.h, &w = plan.w;
  const bool strided = h.source_step * h.out_step * w.source_step * w.out_step > 1;
  if (strided || plan.source_channels_last || plan.out_channels_last || plan.taps() > kLongestChain)
    return false;
  const int64_t padded = plan.in * h.source * (w.out + w.last_offset() - w.first_offset());
  if ((padded + plan.out * h.out * w.out) * plan.vector * 4 > kMostBytes) return false;
  const int64_t source = plan.in * h.source * w.source, out = plan.out * h.out * w.out;
  const double idle = static_cast<double>(round_up(plan.n, plan.vector)) / (plan.n * plan.vector);
  const double products = static_cast<double>(h.products_inside() * w.products_inside() * plan.in * plan.out);
  const double images = idle * (kOverhead * products + kTranspose * static_cast<double>(source + out));
  const int64_t rows = h.out * ceil_div(w.out, plan.vector);
  return images < static_cast<double>(plan.in * plan.out * plan.taps() * rows);
}

// Multiply-adds of one output pixel and output channel-vector, in vectors, plus what reordering the output
// costs: about 8 of them for a value that has to be transposed.
inline DirectLanes gather_lanes(const GatherPlan& plan) {
  if (plan.in == 1 && plan.out == 1 && plan.source_channels_last && plan.out_channels_last &&
      plan.groups * 2 >= plan.vector) {
    return DirectLanes::depthwise;
  }
  if (plan.out * 2 < plan.vector) return DirectLanes::pixels;
  constexpr double kTranspose = 8;
  const double work = static_cast<double>(plan.in * plan.taps()) / plan.phases();
  const int64_t cols = plan.w.count(0);
  const double pixels = work * round_up(cols, plan.vector) / cols + (plan.out_channels_last ? kTranspose : 0);
  const double channels =
      work * round_up(plan.out, plan.vector) / plan.out + (plan.out_channels_last ? 0 : kTranspose);
  return pixels <= channels ? DirectLanes::pixels : DirectLanes::channels;
}

// The padded band of the source: it stays in L1 where it can, but the rows that neighbouring bands both copy
// should not be many.
inline void plan_gather_band(GatherPlan& plan, int64_t compute_size) {
  constexpr int64_t kBandBytes = 24 * 1024, kFewestRows = 8;
  const int64_t reach = plan.w.last_offset() - plan.w.first_offset(), cols = plan.w.count(0);
  int64_t in = plan.in;
  if (plan.lanes == DirectLanes::images) {
    plan.row_pitch = (cols + reach) * plan.vector;
    plan.band_rows = plan.h.out, plan.bands = 1;
    plan.plane = plan.h.source * plan.row_pitch;
    plan.source_size = in * plan.plane;
    return;
  }
  if (plan.lanes == DirectLanes::depthwise) {
    plan.phase_pitch = ((cols - 1) * plan.w.source_step + reach + 1) * plan.vector;
    plan.row_pitch = plan.phase_pitch;
  } else {
    plan.phase_pitch = round_up<int64_t>(cols + reach / plan.w.source_step + 1, 4);
    plan.row_pitch = plan.phase_pitch * plan.w.source_step;
  }
  const int64_t row_bytes = plan.row_pitch * plan.h.source_step * in * compute_size;
  const int64_t rows = plan.h.count(0);
  plan.band_rows = smaller(rows, larger(kFewestRows, kBandBytes / row_bytes));
  plan.bands = ceil_div(rows, plan.band_rows);
  plan.band_rows = ceil_div(rows, plan.bands);
  // One vector more than the rows need keeps the channels from falling into the same cache sets.
  plan.plane = plan.source_rows(plan.band_rows) * plan.row_pitch + plan.vector;
  plan.source_size = round_up(in * plan.plane + plan.vector, plan.vector);
}

// The widest block of output channels that one sweep over a band computes.
inline int64_t widest_block(const GatherPlan& plan) {
  if (plan.lanes == DirectLanes::pixels || plan.lanes == DirectLanes::images) return 6;
  return plan.lanes == DirectLanes::channels ? 2 * plan.vector : plan.vector;
}

// Needs a shape with at least one output and one source pixel and channel. The weight gradient, which reads
// the same packed source, has no tiles for lanes over images.
inline GatherPlan plan_gather(const Conv2dShape& shape, bool backward, bool source_channels_last,
                              bool out_channels_last, int64_t vector, int64_t compute_size,
                              bool narrow_storage, bool allow_images = true) {
  GatherPlan plan{};
  plan.n = shape.n;
  plan.groups = shape.groups;
  plan.in = (backward ? shape.k : shape.c) / shape.groups;
  plan.out = (backward ? shape.c : shape.k) / shape.groups;
  plan.h = gather_axis(shape.h, shape.p, shape.r, shape.stride_h, shape.pad_h, shape.dil_h, backward);
  plan.w = gather_axis(shape.w, shape.q, shape.s, shape.stride_w, shape.pad_w, shape.dil_w, backward);
  // One channel lies the same way in both layouts; the planar way is the one with whole rows.
  plan.source_channels_last = source_channels_last && plan.in * plan.groups > 1;
  plan.out_channels_last = out_channels_last && plan.out * plan.groups > 1;
  plan.vector = vector;
  plan.lanes = gather_lanes(plan);
  if (allow_images && plan.lanes == DirectLanes::pixels && images_are_better(plan))
    plan.lanes = DirectLanes::images;
  plan_gather_band(plan, compute_size);
  plan.out_padded = plan.lanes == DirectLanes::channels ? round_up(plan.out, vector) : plan.out;
  const bool in_place = plan.lanes == DirectLanes::pixels ? !plan.out_channels_last && plan.w.out_step == 1
                                                          : plan.out_channels_last;
  plan.direct_store = in_place && !narrow_storage;
  plan.weight_step =
      plan.taps() * (plan.lanes == DirectLanes::depthwise ? vector : plan.in * plan.out_padded);
  plan.bias_step = larger(vector, plan.out_padded);
  plan.weight_size = round_up(plan.steps() * plan.weight_step, vector);
  plan.bias_size = round_up(plan.steps() * plan.bias_step, vector);
  const int64_t width =
      plan.lanes == DirectLanes::images ? plan.w.out * vector : round_up(plan.w.count(0), vector);
  plan.store_size = plan.direct_store ? 0 : widest_block(plan) * plan.band_rows * width;
  plan.offsets = plan.in * plan.taps() + plan.phases();
  return plan;
}

}  // namespace cnnext
