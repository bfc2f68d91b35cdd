// The sizes of a two-dimensional convolution, for host and device. The letters are fixed here for the whole
// project: n c h w input, k output channel, r s tap, p q output pixel, g group.
#pragma once

#include <cstdint>

#include "math.h"

namespace cnnext {

enum class Conv2dPass { forward, backward_input, backward_weight };

//   y[n, k, p, q] = bias[k] + Σ_{c,r,s} x[n, g·C/G + c, p·stride_h − pad_h + r·dil_h, q·stride_w − pad_w +
//   s·dil_w]
//                                       · weight[k, c, r, s],  g = k / (K/G)
struct Conv2dShape {
  int64_t n, c, h, w;  // input; c counts all groups
  int64_t k, r, s;     // output channels of all groups, kernel size
  int64_t p, q;        // output size
  int64_t stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, groups;

  CNNEXT_HOST_DEVICE constexpr int64_t group_c() const { return c / groups; }
  CNNEXT_HOST_DEVICE constexpr int64_t group_k() const { return k / groups; }

  // The implicit GEMM of one group: gemm_m × gemm_k times gemm_k × gemm_n.
  CNNEXT_HOST_DEVICE constexpr int64_t gemm_m() const { return n * p * q; }
  CNNEXT_HOST_DEVICE constexpr int64_t gemm_n() const { return group_k(); }
  CNNEXT_HOST_DEVICE constexpr int64_t gemm_k() const { return group_c() * r * s; }
};

}  // namespace cnnext
