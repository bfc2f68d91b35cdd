// How conv2d's kernels address their tensors: NCHW or NHWC activations, weights [k, c/g, r, s] or
// channels_last [k, r, s, c/g], and which source pixels a destination pixel meets, forward and backward.
//
// Along an axis, destination pixel i of a phase and tap t meet at source pixel
//   i·step + base + t·increment,  t in [0, taps),   and i lies at destination pixel first + i·first_step.
// Forward there is one phase: step = stride, base = −pad, increment = dilation.
// Input gradient: pixel h gets Σ_r grad[(h + pad − r·dil) / stride] over the r where that divides. Pixels
// with one remainder of h by the stride, a phase, meet the same taps r = tap + t·tap_step, and neighbours in
// a phase meet neighbours in the gradient: no zero is put in between, and none is multiplied.
#pragma once

#include "../common/conv2d_shape.h"
#include "device/platform.cuh"

namespace cnnext {

// Steps of a tensor from one index to the next, in elements.
struct ImageStrides {
  int64_t n, c, h, w;
};

CNNEXT_HOST_DEVICE constexpr ImageStrides image_strides(int64_t c, int64_t h, int64_t w, bool channels_last) {
  if (channels_last) return {h * w * c, 1, w * c, c};
  return {c * h * w, h * w, w, 1};
}

struct WeightStrides {
  int64_t k, c, r, s;
};

CNNEXT_HOST_DEVICE constexpr WeightStrides weight_strides(int64_t group_c, int64_t r, int64_t s,
                                                          bool channels_last) {
  if (channels_last) return {r * s * group_c, 1, s * group_c, group_c};
  return {group_c * r * s, r * s, s, 1};
}

struct AxisPhase {
  int64_t count, first, first_step;  // destination pixels: first + i·first_step, i in [0, count)
  int64_t step, base, increment;     // source pixel of (i, t)
  int64_t taps, tap, tap_step;       // tap of the weight: tap + t·tap_step, t in [0, taps)
};

CNNEXT_HOST_DEVICE constexpr AxisPhase forward_axis(int64_t out, int64_t taps, int64_t stride, int64_t pad,
                                                    int64_t dil) {
  return {out, 0, 1, stride, -pad, dil, taps, 0, 1};
}

CNNEXT_HOST_DEVICE constexpr int64_t greatest_common_divisor(int64_t a, int64_t b) {
  while (b != 0) {
    const int64_t rest = a % b;
    a = b, b = rest;
  }
  return a;
}

// `phase` in [0, stride). Taps of a phase are stride / gcd(stride, dil) apart; a phase may have none, and its
// gradient is 0.
CNNEXT_HOST_DEVICE constexpr AxisPhase backward_input_axis(int64_t size, int64_t taps, int64_t stride,
                                                           int64_t pad, int64_t dil, int64_t phase) {
  const int64_t tap_step = stride / greatest_common_divisor(stride, dil);
  int64_t tap = 0;
  while (tap < tap_step && (phase + pad - tap * dil) % stride != 0) ++tap;
  const bool any = tap < tap_step && tap < taps;
  const int64_t count = size > phase ? ceil_div(size - phase, stride) : 0;
  if (!any) return {count, phase, stride, 1, 0, 0, 0, 0, 0};
  return {count,
          phase,
          stride,
          1,
          (phase + pad - tap * dil) / stride,
          -(dil * tap_step / stride),
          ceil_div(taps - tap, tap_step),
          tap,
          tap_step};
}

// n / divisor for n in [0, 2^31) by a multiplication: the device has no instruction that divides.
// (Granlund and Montgomery, "Division by invariant integers using multiplication", PLDI 1994)
struct Divisor {
  uint32_t divisor = 1, multiplier = 1, shift = 0;

  Divisor() = default;
  CNNEXT_HOST_DEVICE constexpr explicit Divisor(int64_t value) : divisor(static_cast<uint32_t>(value)) {
    while ((uint64_t{1} << shift) < divisor) ++shift;
    const uint64_t excess = (uint64_t{1} << shift) - divisor;
    multiplier = static_cast<uint32_t>((excess << 32) / divisor + 1);
  }

  CNNEXT_HOST_DEVICE constexpr uint32_t quotient(uint32_t n) const {
    const auto high = static_cast<uint32_t>((static_cast<uint64_t>(n) * multiplier) >> 32);
    return (high + n) >> shift;  // both are below 2^31
  }
  CNNEXT_HOST_DEVICE constexpr uint32_t remainder(uint32_t n) const { return n - quotient(n) * divisor; }
};

}  // namespace cnnext
