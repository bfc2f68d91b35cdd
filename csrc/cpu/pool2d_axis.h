// One axis of a pool, as tables: the taps of every window (forward) and the windows over every pixel
// (backward).
//
// Uniform and adaptive pools, padding, ceil_mode and the divisors of an average differ in these tables only,
// so that the kernels know no special case; and no kernel divides by a stride or dilation.
#pragma once

#include <cstdint>

namespace cnnext {

// Taps [first_tap, end_tap) of the window lie inside the input, tap t at pixel origin + t · dilation.
// The divisor of the average over window (p, q) is rows.window[p].divisor · columns.window[q].divisor.
struct PoolWindow {
  int64_t origin, first_tap, end_tap, divisor;
};

// The windows over a pixel, ascending: the i-th, 0 ≤ i < count, is window + i · window_step, and sees the
// pixel as tap − i · tap_step.
struct PoolCover {
  int64_t window, tap, count;
};

struct PoolAxis {
  int64_t size, windows;
  int64_t taps, stride, pad, dilation;  // stride = 0 where the windows are not evenly spaced (adaptive)
  int64_t window_step, tap_step;
  const PoolWindow* window;  // [windows]
  const PoolCover* cover;    // [size]
};

// n·c planes of one channel for NCHW, n planes of c channels for NHWC.
struct PoolPlan {
  int64_t planes, channels;
  PoolAxis rows, columns;

  int64_t inputs() const { return planes * rows.size * columns.size * channels; }
  int64_t outputs() const { return planes * rows.windows * columns.windows * channels; }
};

}  // namespace cnnext
