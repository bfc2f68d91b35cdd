// What the direct algorithm can run: everything but sides that no image has.
#pragma once

#include "conv2d_request.h"

namespace cnnext::direct {

inline constexpr int kTaps = 8;           // of a block of the weight gradient
inline constexpr int kLastChannels = 32;  // of a block of it in NHWC; in NCHW it has one

inline const char* refuses(const Conv2dRequest& request) {
  constexpr int64_t kMostSide = (int64_t{1} << 30) - 1;
  const Conv2dShape& s = request.shape;
  for (int64_t side : {s.h + 2 * s.pad_h + s.dil_h * s.r, s.w + 2 * s.pad_w + s.dil_w * s.s, s.stride_h,
                       s.stride_w, s.k, s.c}) {
    if (side > kMostSide)
      return "a side of the padded image or of the kernel, or a channel count, is 2^30 or more";
  }
  return nullptr;
}

inline const char* slower(const Conv2dRequest&) { return nullptr; }

// The splits of the pixels in a weight gradient: blocks for the whole device.
inline int splits(const Conv2dRequest& request) {
  constexpr int64_t kLeastPixels = 1024, kBlocksPerMultiprocessor = 4, kMostGridZ = 65535;
  if (request.pass != Conv2dPass::backward_weight) return 1;
  const Conv2dShape& s = request.shape;
  const int64_t channels = request.channels_last ? ceil_div<int64_t>(s.k, kLastChannels) : s.k;
  const int64_t blocks = channels * s.group_c() * ceil_div<int64_t>(s.r * s.s, kTaps);
  const int64_t wanted = request.limits.multiprocessors * kBlocksPerMultiprocessor / blocks;
  const int64_t most = smaller(ceil_div(s.gemm_m(), kLeastPixels), kMostGridZ);
  return static_cast<int>(larger<int64_t>(1, smaller(wanted, most)));
}

}  // namespace cnnext::direct
