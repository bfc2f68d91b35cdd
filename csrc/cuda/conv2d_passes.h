// The passes of conv2d by whatever algorithm is chosen, for conv2d itself and for the fused convolutions.
#pragma once

#include "../torch/conv2d_checks.h"
#include "context.h"
#include "conv2d_epilogue.cuh"
#include "conv2d_prologue.cuh"
#include "conv2d_request.h"

namespace cnnext {

template <class T>
constexpr Conv2dDtype conv2d_dtype() {
  if (std::is_same_v<T, float>) return Conv2dDtype::float32;
  if (std::is_same_v<T, double>) return Conv2dDtype::float64;
  return std::is_same_v<T, __half> ? Conv2dDtype::float16 : Conv2dDtype::bfloat16;
}

template <class T>
Conv2dRequest conv2d_request(const Conv2dShape& shape, Conv2dPass pass, bool channels_last, bool allow_tf32,
                             bool allow_winograd) {
  return {shape,
          pass,
          conv2d_dtype<T>(),
          channels_last,
          allow_tf32,
          allow_winograd,
          device::current_device_limits()};
}

// A forward convolution's arguments, checked.
struct Convolution {
  const Tensor& input;
  Conv2dShape shape;
  bool channels_last;

  Tensor empty_output() const { return empty(input, {shape.n, shape.k, shape.p, shape.q}, channels_last); }

  template <class T>
  Conv2dRequest request(bool allow_tf32, bool allow_winograd) const {
    return conv2d_request<T>(shape, Conv2dPass::forward, channels_last, allow_tf32, allow_winograd);
  }
};

inline Convolution checked_convolution(const Tensor& input, const Tensor& weight,
                                       const std::optional<Tensor>& bias, const Sizes& stride,
                                       const Sizes& padding, const Sizes& dilation, int64_t groups) {
  const Conv2dShape shape =
      conv2d_shape(sizes_of(input), sizes_of(weight), stride, padding, dilation, groups);
  check_weight_and_bias(input, weight, bias, shape, check_same_device);
  return {input, shape, is_channels_last(input) || is_channels_last(weight)};
}

// Whether the algorithm of a request normalises its input while it loads it.
bool conv2d_takes_prologue(const Conv2dRequest& request);

// Σy and Σ(y − mean of the block)² of each channel and block of `pixels` pixels, partial [blocks][2][k]; no
// pixels: the algorithm has no moments.
struct Conv2dMoments {
  int64_t pixels = 0;
  Tensor partial;
};

// Forward and input gradient: a gather of `source` into `destination`, both dense in the request's layout. A
// prologue is for algorithms that take it, `moments`, unless null, of a forward pass with a bias at most.
template <class T>
void conv2d_gather(const Conv2dRequest& request, const Tensor& source, const Tensor& weight,
                   const Conv2dPrologue<T>& prologue, const Conv2dEpilogue<T>& epilogue,
                   const Tensor& destination, cudaStream_t stream, Conv2dMoments* moments = nullptr);

// `input`: that of the pass, or what a prologue made of it beforehand.
template <class T>
void conv2d_weight_gradient(const Conv2dRequest& request, const Conv2dWeightGradient& pass,
                            const Tensor& input, const Conv2dPrologue<T>& prologue, cudaStream_t stream);

}  // namespace cnnext
