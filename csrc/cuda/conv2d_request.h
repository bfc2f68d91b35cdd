// What is asked of conv2d on CUDA, and what is answered: see conv2d_choose.h.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "../common/conv2d_shape.h"
#include "device/device_limits.cuh"

namespace cnnext {

enum class Conv2dAlgorithm { direct, implicit_gemm, tensor_core, winograd_2x3, winograd_4x3 };

enum class Conv2dDtype { float32, float64, float16, bfloat16 };

struct Conv2dRequest {
  Conv2dShape shape;
  Conv2dPass pass;
  Conv2dDtype dtype;
  bool channels_last;  // of the activations; weights are brought into their order where a kernel asks for it
  bool allow_tf32, allow_winograd;
  device::DeviceLimits limits;
};

// Whether the activations are NHWC, and whether the weight is [k, r, s, c].
struct Conv2dLayouts {
  bool channels_last, weight_channels_last;
};

struct Conv2dRejection {
  std::string candidate, reason;
};

struct Conv2dChoice {
  Conv2dAlgorithm algorithm;
  int tile;                       // row of the algorithm's table
  int splits;                     // of the pixels, in a weight gradient
  const char* refused = nullptr;  // null, or why nothing can run it
};

inline std::string conv2d_text(const Conv2dShape& s) {
  const auto list = [](std::initializer_list<int64_t> values) {
    std::string text;
    for (int64_t value : values) text += (text.empty() ? "[" : ", ") + std::to_string(value);
    return text + "]";
  };
  return "input " + list({s.n, s.c, s.h, s.w}) + ", weight " + list({s.k, s.group_c(), s.r, s.s}) +
         ", stride " + list({s.stride_h, s.stride_w}) + ", padding " + list({s.pad_h, s.pad_w}) +
         ", dilation " + list({s.dil_h, s.dil_w}) + ", groups " + std::to_string(s.groups);
}

inline double conv2d_flops(const Conv2dShape& s) {
  return 2.0 * static_cast<double>(s.gemm_m()) * static_cast<double>(s.k) * static_cast<double>(s.gemm_k());
}

}  // namespace cnnext
