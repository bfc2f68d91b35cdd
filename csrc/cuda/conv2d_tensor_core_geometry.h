// What the tensor-core kernels take of a convolution's geometry: the phases of both axes (conv2d_layout.cuh),
// and how large things may be.
#pragma once

#include "conv2d_layout.cuh"

namespace cnnext::tensor_core {

inline constexpr int kMaxPhases = 8;  // of an axis: the largest stride
inline constexpr int kMaxTaps = 127;  // and one entry for "behind the last tap": a table of 1 KiB
inline constexpr int kMaxTapBits =
    31;  // rows and columns of taps: a bit for each, and one of a word is taken

struct AxisPhases {
  int count;
  AxisPhase phase[kMaxPhases];
};

inline AxisPhases forward_phases(int64_t out, int64_t taps, int64_t stride, int64_t pad, int64_t dil) {
  return {1, {forward_axis(out, taps, stride, pad, dil)}};
}

inline AxisPhases backward_input_phases(int64_t size, int64_t taps, int64_t stride, int64_t pad,
                                        int64_t dil) {
  AxisPhases axis{static_cast<int>(stride), {}};
  for (int phase = 0; phase < axis.count; ++phase) {
    axis.phase[phase] = backward_input_axis(size, taps, stride, pad, dil, phase);
  }
  return axis;
}

}  // namespace cnnext::tensor_core
