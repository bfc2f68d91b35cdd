// What the direct algorithm's gather knows of its images, and the taps that a destination pixel meets.
#pragma once

#include "conv2d_direct_choose.h"
#include "conv2d_layout.cuh"

namespace cnnext::direct {

// One axis of the gather. Backward, tap r of destination pixel i meets the source where stride divides
// i + pad − r·dil. Those r are tap_step = stride / common apart, common = gcd(stride, dil), and begin at
// ((i + pad) / common · inverse) mod tap_step, inverse being that of dil / common modulo tap_step.
struct GatherAxis {
  int size, source;  // of destination and source
  int kernel, stride, pad, dil;
  bool backward;
  int common, tap_step, inverse;

  GatherAxis() = default;
  GatherAxis(bool is_backward, int64_t in, int64_t out, int64_t taps, int64_t stride_, int64_t pad_,
             int64_t dil_)
      : size(static_cast<int>(is_backward ? in : out)),
        source(static_cast<int>(is_backward ? out : in)),
        kernel(static_cast<int>(taps)),
        stride(static_cast<int>(stride_)),
        pad(static_cast<int>(pad_)),
        dil(static_cast<int>(dil_)),
        backward(is_backward),
        common(static_cast<int>(greatest_common_divisor(stride_, dil_))),
        tap_step(stride / common),
        inverse(0) {
    while (inverse + 1 < tap_step && int64_t{inverse} * (dil / common) % tap_step != 1) ++inverse;
  }
};

struct GatherProblem {
  int64_t images, pixels;  // of the destination, images included
  int groups, in, out;     // channels of a group of source and destination
  GatherAxis rows, cols;
  ImageStrides source, destination;
  int64_t weight_group, weight_out, weight_in, weight_r, weight_s;
  int64_t channel_blocks;
  int lane_channels;  // NHWC: of a block
  bool narrow;        // every index of a pixel and channel block is below 2^31
};

// A destination row or column's taps: t in [0, taps) is tap `tap + t·tap_step` and meets source +
// t·increment.
struct Window {
  int taps, tap, tap_step, source, increment;

  CNNEXT_DEVICE Window(const GatherAxis& axis, int i)
      : taps(axis.kernel), tap(0), tap_step(1), source(i * axis.stride - axis.pad), increment(axis.dil) {
    if (!axis.backward) return;
    source = i + axis.pad, increment = -axis.dil;
    if (axis.stride == 1) return;
    tap_step = axis.tap_step, increment = -(axis.dil / axis.common);
    taps = 0;
    if (source % axis.common != 0) return;
    tap = static_cast<int>(int64_t{source / axis.common} * axis.inverse % tap_step);
    if (tap >= axis.kernel) return;
    taps = ceil_div(axis.kernel - tap, tap_step);
    source = static_cast<int>((int64_t{source} - int64_t{tap} * axis.dil) / axis.stride);
  }
};

struct Divided {
  int64_t quotient, rest;
};

// 64-bit division takes some 70 instructions; nearly always 32 bits are enough.
CNNEXT_DEVICE Divided divide(int64_t value, int64_t by, bool narrow) {
  if (narrow) {
    const auto v = static_cast<uint32_t>(value), d = static_cast<uint32_t>(by);
    return {v / d, v % d};
  }
  return {value / by, value % by};
}

}  // namespace cnnext::direct
