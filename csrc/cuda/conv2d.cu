// conv2d on CUDA: checks, outputs, the choice of the algorithm, launches, registration.
#include <cstdlib>

#include "../torch/conv2d_checks.h"
#include "context.h"
#include "conv2d_backward_weight_reduce_kernel.cuh"
#include "conv2d_choose.h"
#include "conv2d_direct.cuh"
#include "conv2d_implicit_gemm.h"
#include "conv2d_passes.h"
#include "conv2d_tensor_core.h"
#include "conv2d_winograd.h"

namespace cnnext {

static Conv2dChoice choose(const Conv2dRequest& request) {
  const Conv2dChoice choice = choose_conv2d(request, std::getenv("CNNEXT_CONV2D"));
  if (choice.refused != nullptr) {
    check(false, "conv2d on CUDA cannot run ", conv2d_text(request.shape), ": ", choice.refused);
  }
  return choice;
}

// The choice was made for tensors that start at multiples of 16 bytes, as torch's own do; a view may not.
template <class T>
static tensor_core::Plan tensor_core_plan(const Conv2dRequest& request, const Conv2dChoice& choice,
                                          const Tensor& a, const Tensor& b) {
  constexpr int kVector = device::kMaxVector<T>;
  const bool aligned =
      device::can_vectorize<kVector>(data<T>(a), 0) && device::can_vectorize<kVector>(data<T>(b), 0);
  return tensor_core::choose_tile(request, aligned, tensor_core::kTiles[choice.tile].name, nullptr);
}

// Room for the moments of a forward pass by blocks of `pixels` pixels, where they are wanted.
template <class T>
static Conv2dEpilogue<T> with_moments(const Conv2dEpilogue<T>& epilogue, const Conv2dShape& shape,
                                      int64_t pixels, const Tensor& like, Conv2dMoments* moments) {
  Conv2dEpilogue<T> result = epilogue;
  if (moments == nullptr || shape.gemm_m() == 0) return result;
  moments->pixels = pixels;
  moments->partial = empty(like, {ceil_div(shape.gemm_m(), pixels), 2, shape.k}, ScalarType::Double);
  result.moments = mutable_data<double>(moments->partial), result.channels = shape.k;
  return result;
}

template <class T>
static void tensor_core_gather(const Conv2dRequest& request, const Conv2dChoice& choice, const Tensor& source,
                               const Tensor& weight, const Conv2dEpilogue<T>& epilogue,
                               const Tensor& destination, cudaStream_t stream, Conv2dMoments* moments) {
  const auto plan = tensor_core_plan<T>(request, choice, source, source);
  const bool weight_last = is_channels_last(weight);
  const Tensor w = contiguous_as(weight, weight_last);
  const Tensor packed = empty(source, {plan.packed_bytes / static_cast<int64_t>(sizeof(T))});
  const int tile_m = tensor_core::kTiles[plan.tile].tile_m;
  tensor_core::launch_gather(request, plan, weight_last, data<T>(source), data<T>(w),
                             with_moments(epilogue, request.shape, tile_m, source, moments),
                             mutable_data<T>(destination), mutable_data<T>(packed), stream);
}

static void winograd_gather(const Conv2dRequest& request, int output, const Tensor& source,
                            const Tensor& weight, const Conv2dPrologue<float>& prologue,
                            const Conv2dEpilogue<float>& epilogue, const Tensor& destination,
                            cudaStream_t stream) {
  const auto plan = winograd::plan(request, output);
  const bool weight_last = is_channels_last(weight);
  const Tensor w = contiguous_as(weight, weight_last);
  const Tensor workspace = empty(source, {plan.weight_floats + plan.input_floats + plan.output_floats});
  winograd::launch_gather(request, plan, output, weight_last, data<float>(source), data<float>(w), prologue,
                          epilogue, mutable_data<float>(destination), mutable_data<float>(workspace), stream);
}

bool conv2d_takes_prologue(const Conv2dRequest& request) {
  // Tensor cores are fed by cp.async, past the registers in which a value could be normalised.
  return choose(request).algorithm != Conv2dAlgorithm::tensor_core;
}

template <class T>
void conv2d_gather(const Conv2dRequest& request, const Tensor& source, const Tensor& weight,
                   const Conv2dPrologue<T>& prologue, const Conv2dEpilogue<T>& epilogue,
                   const Tensor& destination, cudaStream_t stream, Conv2dMoments* moments) {
  const Conv2dChoice choice = choose(request);
  const bool last = request.channels_last;
  switch (choice.algorithm) {
    case Conv2dAlgorithm::tensor_core:
      if constexpr (!std::is_same_v<T, double>) {
        return tensor_core_gather<T>(request, choice, source, weight, epilogue, destination, stream, moments);
      }
      return;  // not reached: there is none for float64
    case Conv2dAlgorithm::winograd_2x3:
    case Conv2dAlgorithm::winograd_4x3:
      if constexpr (std::is_same_v<T, float>) {
        const int output = choice.algorithm == Conv2dAlgorithm::winograd_2x3 ? 2 : 4;
        return winograd_gather(request, output, source, weight, prologue, epilogue, destination, stream);
      }
      return;  // not reached: it is for float32 alone
    case Conv2dAlgorithm::implicit_gemm: {
      const Tensor w = contiguous_as(weight, last);  // its order along gemm_k is that of the images
      const int tile_m = implicit_gemm::tile_row(request.dtype, choice.tile).tile_m;
      return implicit_gemm::launch_gather(request.shape, request.pass, {last, last}, choice.tile,
                                          data<T>(source), data<T>(w), prologue,
                                          with_moments(epilogue, request.shape, tile_m, source, moments),
                                          mutable_data<T>(destination), stream);
    }
    default: {
      const bool weight_last = is_channels_last(weight);
      const Tensor w = contiguous_as(weight, weight_last);
      return direct::launch_gather(request.shape, request.pass, {last, weight_last}, data<T>(source),
                                   data<T>(w), prologue, epilogue, mutable_data<T>(destination), stream);
    }
  }
}

static Tensor conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                     const Sizes& stride, const Sizes& padding, const Sizes& dilation, int64_t groups,
                     bool allow_tf32, bool allow_winograd) {
  const Convolution conv = checked_convolution(input, weight, bias, stride, padding, dilation, groups);
  const CudaScope scope(input);
  const Tensor output = conv.empty_output(), x = contiguous_as(input, conv.channels_last);
  const std::optional<Tensor> b = bias ? std::optional(contiguous_as(*bias, false)) : std::nullopt;
  dispatch_cuda_floating(input, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    conv2d_gather<T>(conv.request<T>(allow_tf32, allow_winograd), x, weight, {}, {data<T>(b)}, output,
                     scope.stream());
  });
  return output;
}

static Tensor conv2d_backward_input(const Tensor& grad, const Tensor& weight, const Sizes& input_size,
                                    const Sizes& stride, const Sizes& padding, const Sizes& dilation,
                                    int64_t groups, bool allow_tf32, bool allow_winograd) {
  const Conv2dShape shape = conv2d_shape(input_size, sizes_of(weight), stride, padding, dilation, groups);
  check_grad(grad, shape, weight, "weight", check_same_device);
  const CudaScope scope(grad);
  const bool last = is_channels_last(grad) || is_channels_last(weight);
  const Tensor grad_input = empty(grad, input_size, last), g = contiguous_as(grad, last);
  dispatch_cuda_floating(grad, "grad", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto request =
        conv2d_request<T>(shape, Conv2dPass::backward_input, last, allow_tf32, allow_winograd);
    conv2d_gather<T>(request, g, weight, {}, {}, grad_input, scope.stream());
  });
  return grad_input;
}

// Sums of the splits, then their sum: see conv2d_backward_weight_reduce_kernel.cuh.
template <class T>
void conv2d_weight_gradient(const Conv2dRequest& request, const Conv2dWeightGradient& pass,
                            const Tensor& input, const Conv2dPrologue<T>& prologue, cudaStream_t stream) {
  using C = compute_t<T>;
  const Tensor& grad = pass.grad;
  const Conv2dShape& shape = request.shape;
  Conv2dChoice choice = choose(request);
  if constexpr (!std::is_same_v<T, double>) {
    if (choice.algorithm == Conv2dAlgorithm::tensor_core) {
      choice.splits = tensor_core_plan<T>(request, choice, grad, input).splits;
    }
  }
  const ScalarType dtype = sizeof(C) == 8 ? ScalarType::Double : ScalarType::Float;
  const Tensor partial = empty(grad, {choice.splits, shape.k, shape.gemm_k()}, dtype);
  const Tensor partial_bias = empty(grad, {choice.splits, shape.k}, dtype);
  C *sums = mutable_data<C>(partial), *bias_sums = mutable_data<C>(partial_bias);
  bool sums_channels_last = false;
  switch (choice.algorithm) {
    case Conv2dAlgorithm::tensor_core:
      sums_channels_last = true;
      if constexpr (!std::is_same_v<T, double>) {
        tensor_core::launch_weight(request, tensor_core_plan<T>(request, choice, grad, input), data<T>(grad),
                                   data<T>(input), sums, bias_sums, stream);
      }
      break;
    case Conv2dAlgorithm::implicit_gemm:
      sums_channels_last = request.channels_last;
      implicit_gemm::launch_weight(shape, request.channels_last, choice.tile, choice.splits, data<T>(grad),
                                   data<T>(input), prologue, sums, bias_sums, stream);
      break;
    default:
      direct::launch_weight(shape, request.channels_last, choice.splits, data<T>(grad), data<T>(input),
                            prologue, sums, bias_sums, stream);
  }
  launch_weight_reduce<T>(shape, choice.splits, sums_channels_last, sums, bias_sums,
                          mutable_data<T>(pass.grad_weight), mutable_data<T>(pass.grad_bias), stream);
}

static std::tuple<Tensor, Tensor> conv2d_backward_weight(const Tensor& grad, const Tensor& input,
                                                         const Sizes& weight_size, const Sizes& stride,
                                                         const Sizes& padding, const Sizes& dilation,
                                                         int64_t groups, bool allow_tf32,
                                                         bool allow_winograd) {
  const Conv2dWeightGradient pass =
      checked_weight_gradient(grad, input, weight_size, stride, padding, dilation, groups, check_same_device);
  const CudaScope scope(grad);
  dispatch_cuda_floating(grad, "grad", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto request = conv2d_request<T>(pass.shape, Conv2dPass::backward_weight, pass.channels_last,
                                           allow_tf32, allow_winograd);
    conv2d_weight_gradient<T>(request, pass, pass.input, {}, scope.stream());
  });
  return {pass.grad_weight, pass.grad_bias};
}

#define CNNEXT_INSTANTIATE_PASSES(T)                                                                        \
  template void conv2d_gather<T>(const Conv2dRequest&, const Tensor&, const Tensor&,                        \
                                 const Conv2dPrologue<T>&, const Conv2dEpilogue<T>&, const Tensor&,         \
                                 cudaStream_t, Conv2dMoments*);                                             \
  template void conv2d_weight_gradient<T>(const Conv2dRequest&, const Conv2dWeightGradient&, const Tensor&, \
                                          const Conv2dPrologue<T>&, cudaStream_t);
CNNEXT_INSTANTIATE_PASSES(float)
CNNEXT_INSTANTIATE_PASSES(double)
CNNEXT_INSTANTIATE_PASSES(__half)
CNNEXT_INSTANTIATE_PASSES(__nv_bfloat16)

CNNEXT_CUDA_LIBRARY_IMPL(m) {
  m.impl("conv2d", TORCH_BOX(&conv2d));
  m.impl("conv2d_backward_input", TORCH_BOX(&conv2d_backward_input));
  m.impl("conv2d_backward_weight", TORCH_BOX(&conv2d_backward_weight));
}

}  // namespace cnnext
