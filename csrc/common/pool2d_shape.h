// The shape of a two-dimensional pool, and the arithmetic of its windows; for host and device, free of torch.
//
// Input [n, c, h, w], output [n, c, p, q]. Tap (r, s) of window (p, q) lies at
//   h = p·stride_h − pad_h + r·dil_h,   w = q·stride_w − pad_w + s·dil_w
// and takes part only where that is inside the input: padding is never looked at, it only places the windows.
#pragma once

#include <cstdint>

#include "math.h"

namespace cnnext {

struct Pool2dShape {
  int64_t n, c, h, w;
  int64_t r, s;
  int64_t stride_h, stride_w;
  int64_t pad_h, pad_w;
  int64_t dil_h, dil_w;
  int64_t p, q;
};

// Windows along one axis. With ceil_mode an incomplete last window counts, but only if it starts inside the
// input or its left padding. (torch's rule: pooling_output_shape in ATen/native/Pool.h)
CNNEXT_HOST_DEVICE inline int64_t pool_windows(int64_t size, int64_t kernel, int64_t stride, int64_t pad,
                                               int64_t dilation, bool ceil_mode) {
  const int64_t room = size + 2 * pad - dilation * (kernel - 1) - 1;
  if (!ceil_mode) return floor_div(room, stride) + 1;
  const int64_t windows = floor_div(room + stride - 1, stride) + 1;
  return (windows - 1) * stride >= size + pad ? windows - 1 : windows;
}

// Adaptive pooling divides `size` pixels among `windows` windows that may overlap by a pixel:
// window i is [adaptive_start(i), adaptive_end(i)).
CNNEXT_HOST_DEVICE inline int64_t adaptive_start(int64_t i, int64_t size, int64_t windows) {
  return i * size / windows;
}

CNNEXT_HOST_DEVICE inline int64_t adaptive_end(int64_t i, int64_t size, int64_t windows) {
  return ceil_div((i + 1) * size, windows);
}

// What max_pool2d's `tap` holds: a byte for windows of up to 256 taps, else 32 bits.
CNNEXT_HOST_DEVICE inline bool taps_fit_a_byte(int64_t r, int64_t s) { return r * s <= 256; }

}  // namespace cnnext
