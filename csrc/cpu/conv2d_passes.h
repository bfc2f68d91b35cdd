// The passes of conv2d on dense tensors: the choice of the algorithm, and the call of it.
#pragma once

#include <cstdlib>
#include <cstring>

#include "../torch/conv2d_checks.h"
#include "conv2d_direct.h"
#include "conv2d_implicit_gemm.h"
#include "conv2d_implicit_gemm_weight.h"

namespace cnnext {

enum class Conv2dAlgorithm { implicit_gemm, direct };

// Whether the direct algorithm is faster than the implicit GEMM where both can run, by measurement on one
// core. It is for few channels; with more of them the GEMM wins as soon as packing its weights is a small
// part of the work, neighbouring pixels have little to share (1x1 kernels, strides), or channels_last makes
// its operand lie ready.
inline bool direct_is_faster(const Conv2dShape& shape, Conv2dPass pass, bool channels_last) {
  constexpr int64_t kMostProducts = 128 * 9, kManyChannels = 64, kFewChannels = 8, kFullTile = 32,
                    kFewFilters = 16;
  const bool backward = pass == Conv2dPass::backward_input, for_weight = pass == Conv2dPass::backward_weight;
  const int64_t in = backward ? shape.group_k() : shape.group_c();
  const int64_t out = backward ? shape.group_c() : shape.group_k();
  const bool strided = shape.stride_h > 1 || shape.stride_w > 1;
  if (direct_products(shape, pass) > kMostProducts) return false;
  if (in >= kManyChannels && out >= kFullTile &&
      (strided || channels_last || in > kManyChannels || for_weight)) {
    return false;
  }
  if (!channels_last || in <= kFewChannels) return true;
  return for_weight ? out <= kFewFilters : shape.r * shape.s > 1;
}

// Which algorithm runs a pass: a function of the sizes and the layout alone. CNNEXT_CONV2D=direct or
// =implicit_gemm in the environment overrides it, for tests and measurements.
inline Conv2dAlgorithm choose_algorithm(const Conv2dShape& shape, Conv2dPass pass, bool channels_last) {
  if (direct_refuses(shape, pass)) return Conv2dAlgorithm::implicit_gemm;
  if (const char* forced = std::getenv("CNNEXT_CONV2D")) {
    return std::strcmp(forced, "direct") ? Conv2dAlgorithm::implicit_gemm : Conv2dAlgorithm::direct;
  }
  return direct_is_faster(shape, pass, channels_last) ? Conv2dAlgorithm::direct
                                                      : Conv2dAlgorithm::implicit_gemm;
}

template <typename T>
void conv2d_forward(const Conv2dShape& shape, const Tensor& x, const Tensor& weight,
                    const std::optional<Tensor>& bias, const Tensor& output, bool channels_last,
                    const Conv2dFusion<compute_t<T>>& fusion) {
  const bool direct = choose_algorithm(shape, Conv2dPass::forward, channels_last) == Conv2dAlgorithm::direct;
  (direct ? direct_forward<T> : implicit_gemm_forward<T>)(shape, x, weight, bias, output, channels_last,
                                                          fusion);
}

template <typename T>
void conv2d_backward_weight_of(const Conv2dWeightGradient& pass,
                               const Conv2dPrologue<compute_t<T>>& prologue) {
  const bool direct = choose_algorithm(pass.shape, Conv2dPass::backward_weight, pass.channels_last) ==
                      Conv2dAlgorithm::direct;
  (direct ? direct_backward_weight<T> : implicit_gemm_backward_weight<T>)(pass.shape, pass.grad, pass.input,
                                                                          prologue, pass.grad_weight,
                                                                          pass.grad_bias, pass.channels_last);
}

}  // namespace cnnext
