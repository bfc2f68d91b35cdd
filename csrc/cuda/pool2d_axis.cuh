// One axis of a pool on the device: the taps of a window (forward) and the windows over a pixel (backward).
//
// Everything is calculated where it is needed, from a few numbers in constant memory: a table would have to
// be copied to the device before every call. 32 bits are enough: sizes are at most 2^26 and kernel_size,
// stride, padding, dilation below 2^31, of which a window can start at no more than size + padding.
#pragma once

#include "../common/pool2d_shape.h"
#include "device/index_divider.cuh"

namespace cnnext {

// Taps [first_tap, end_tap) of the window lie inside the input, tap t at pixel origin + t · dilation.
struct PoolWindow {
  int origin, first_tap, end_tap;
};

// The windows over a pixel: first, first + window_step, … up to last; the first sees it as `tap`, each
// further one as tap_step less. None if last < first.
struct PoolCover {
  int first, last, tap;
};

struct PoolRange {
  int begin, end;
};

struct PoolAxis {
  int size, windows;
  int taps, stride, pad, dilation;
  int window_step, tap_step;  // i·stride + t·dilation = const: windows over one pixel, and their taps
  int reach;                  // (taps − 1) · dilation, at most 2^31 − 1
  bool adaptive;       // windows as adaptive_start and adaptive_end say; the numbers above are not used
  bool count_padding;  // the divisor of an average counts taps in the padding
  device::IndexDivider by_stride, by_dilation;

  CNNEXT_DEVICE PoolWindow window(int i) const {
    if (adaptive) {
      const int64_t start = adaptive_start(i, size, windows), end = adaptive_end(i, size, windows);
      return {static_cast<int>(start), 0, static_cast<int>(end - start)};
    }
    const int origin = i * stride - pad;
    const int first = origin >= 0 ? 0 : smaller(taps, by_dilation.divide(-origin - 1) + 1);
    const int room = size - 1 - origin;
    if (room < 0) return {origin, first, first};
    return {origin, first, smaller(taps, larger(first, by_dilation.divide(room) + 1))};
  }

  // What an average over the window is divided by, along this axis.
  CNNEXT_DEVICE int divisor(const PoolWindow& window) const {
    if (!count_padding) return window.end_tap - window.first_tap;
    const uint32_t room =
        static_cast<uint32_t>(size) + static_cast<uint32_t>(pad) - static_cast<uint32_t>(window.origin);
    return static_cast<int>(smaller(static_cast<uint32_t>(taps), room));
  }

  CNNEXT_DEVICE PoolCover cover(int pixel) const {
    const PoolRange range = windows_over(pixel);
    if (adaptive) return {range.begin, range.end - 1, 0};
    const int offset = pixel + pad;
    PoolCover cover{range.begin, range.end - 1, offset - range.begin * stride};
    if (dilation == 1) return cover;
    // Only some windows have a tap right on the pixel; the first of them is among the next window_step.
    for (int tried = 0; tried < window_step && cover.first <= cover.last; ++tried, ++cover.first) {
      const int distance = offset - cover.first * stride, tap = by_dilation.divide(distance);
      cover.tap = tap;
      if (tap * dilation == distance) return cover;
    }
    return {0, -1, 0};
  }

  // A range of windows that holds all over the pixel; its ends do not fall as the pixel rises.
  CNNEXT_DEVICE PoolRange windows_over(int pixel) const {
    if (adaptive) {
      return {static_cast<int>(adaptive_start(pixel, windows, size)),
              static_cast<int>(adaptive_end(pixel, windows, size))};
    }
    const int offset = pixel + pad;
    const int begin = offset > reach ? by_stride.divide(offset - reach - 1) + 1 : 0;
    return {begin, smaller(windows, by_stride.divide(offset) + 1)};
  }

  // A range of pixels that holds all taps of the window; its ends do not fall as the window rises.
  CNNEXT_DEVICE PoolRange pixels_under(int i) const {
    if (adaptive) {
      return {static_cast<int>(adaptive_start(i, size, windows)),
              static_cast<int>(adaptive_end(i, size, windows))};
    }
    const int origin = i * stride - pad;
    const int64_t end = int64_t{origin} + reach + 1;
    return {smaller(size, larger(0, origin)),
            static_cast<int>(smaller<int64_t>(size, larger<int64_t>(0, end)))};
  }
};

inline PoolAxis uniform_pool_axis(int64_t size, int64_t windows, int64_t taps, int64_t stride, int64_t pad,
                                  int64_t dilation, bool count_padding = false) {
  int64_t common = stride;
  for (int64_t rest = dilation; rest != 0;) {
    const int64_t next = common % rest;
    common = rest;
    rest = next;
  }
  constexpr int64_t kBeyondAllWindows = int64_t{1} << 30;
  const auto narrow = [](int64_t value) { return static_cast<int>(smaller<int64_t>(value, INT32_MAX)); };
  return {narrow(size),
          narrow(windows),
          narrow(taps),
          narrow(stride),
          narrow(pad),
          narrow(dilation),
          narrow(smaller(dilation / common, kBeyondAllWindows)),
          narrow(stride / common),
          narrow((taps - 1) * dilation),
          false,
          count_padding,
          device::IndexDivider(stride),
          device::IndexDivider(dilation)};
}

inline PoolAxis adaptive_pool_axis(int64_t size, int64_t windows) {
  if (windows > 0 && size % windows == 0) {
    const int64_t taps = size / windows;
    return uniform_pool_axis(size, windows, taps, larger<int64_t>(taps, 1), 0, 1);
  }
  PoolAxis axis = uniform_pool_axis(size, windows, ceil_div(size, larger<int64_t>(windows, 1)) + 1, 1, 0, 1);
  axis.adaptive = true;
  return axis;
}

}  // namespace cnnext
