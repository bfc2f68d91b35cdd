// max_pool2d on CUDA: checks, outputs, launches, registration.
#include "../torch/pool2d_checks.h"
#include "context.h"
#include "max_pool2d_kernel.cuh"

namespace cnnext {

namespace {

ScalarType tap_dtype(const Pool2dShape& shape) {
  return taps_fit_a_byte(shape.r, shape.s) ? ScalarType::Byte : ScalarType::Int;
}

void check_tap(const Tensor& tap, const Pool2dShape& shape, const Sizes& size) {
  check_shape(tap, "tap", size);
  if (tap.scalar_type() == tap_dtype(shape)) return;
  check(false, "expected `tap` of dtype ", toString(tap_dtype(shape)), " for this kernel_size, but got ",
        toString(tap.scalar_type()));
}

// run(Tag<T>{}, Tag<Tap>{}) with the storage types of `tensor` and of the taps.
template <typename Run>
void dispatch_with_tap(const Tensor& tensor, const char* name, const Tensor& tap, const Run& run) {
  dispatch_cuda_floating(tensor, name, [&](auto tag) {
    if (tap.scalar_type() == ScalarType::Byte) {
      run(tag, Tag<uint8_t>{});
    } else {
      run(tag, Tag<int32_t>{});
    }
  });
}

std::tuple<Tensor, Tensor> max_pool2d(const Tensor& input, Sizes kernel_size, Sizes stride, Sizes padding,
                                      Sizes dilation, bool ceil_mode) {
  const Pool2dShape shape = pool2d_shape(input, {kernel_size, stride, padding, dilation}, ceil_mode);
  const CudaScope scope(input);
  const bool channels_last = is_channels_last(input);
  const Tensor x = contiguous_as(input, channels_last);
  const Sizes size = {shape.n, shape.c, shape.p, shape.q};
  const Tensor y = empty(x, size, channels_last), tap = empty(x, size, tap_dtype(shape), channels_last);
  dispatch_with_tap(x, "input", tap, [&](auto tag, auto tap_tag) {
    using T = typename decltype(tag)::type;
    using Tap = typename decltype(tap_tag)::type;
    launch_max_pool2d_forward(max_pool2d_plan(shape, channels_last), data<T>(x), mutable_data<T>(y),
                              mutable_data<Tap>(tap), scope.stream());
  });
  return {y, tap};
}

Tensor max_pool2d_backward(const Tensor& grad, const Tensor& tap, Sizes input_size, Sizes kernel_size,
                           Sizes stride, Sizes padding, Sizes dilation) {
  const Pool2dShape shape = pool2d_shape_from_output(input_size, "input_size",
                                                     {kernel_size, stride, padding, dilation}, grad, "grad");
  check_tap(tap, shape, sizes_of(grad));
  check_same_device(grad, "grad", tap, "tap");
  const CudaScope scope(grad);
  const bool channels_last = is_channels_last(grad);
  const Tensor g = contiguous_as(grad, channels_last), taps = contiguous_as(tap, channels_last);
  const Tensor grad_x = empty(g, input_size, channels_last);
  dispatch_with_tap(g, "grad", taps, [&](auto tag, auto tap_tag) {
    using T = typename decltype(tag)::type;
    using Tap = typename decltype(tap_tag)::type;
    launch_max_pool2d_backward(max_pool2d_plan(shape, channels_last), data<T>(g), data<Tap>(taps),
                               mutable_data<T>(grad_x), scope.stream());
  });
  return grad_x;
}

Tensor max_pool2d_gather(const Tensor& input, const Tensor& tap, Sizes kernel_size, Sizes stride,
                         Sizes padding, Sizes dilation) {
  const Pool2dShape shape = pool2d_shape_from_output(sizes_of(input), "input",
                                                     {kernel_size, stride, padding, dilation}, tap, "tap");
  check_tap(tap, shape, sizes_of(tap));
  check_same_device(input, "input", tap, "tap");
  const CudaScope scope(input);
  const bool channels_last = is_channels_last(input);
  const Tensor x = contiguous_as(input, channels_last), taps = contiguous_as(tap, channels_last);
  const Tensor y = empty(x, sizes_of(tap), channels_last);
  dispatch_with_tap(x, "input", taps, [&](auto tag, auto tap_tag) {
    using T = typename decltype(tag)::type;
    using Tap = typename decltype(tap_tag)::type;
    launch_max_pool2d_gather(max_pool2d_plan(shape, channels_last), data<T>(x), data<Tap>(taps),
                             mutable_data<T>(y), scope.stream());
  });
  return y;
}

}  // namespace

CNNEXT_CUDA_LIBRARY_IMPL(m) {
  m.impl("max_pool2d", TORCH_BOX(&max_pool2d));
  m.impl("max_pool2d_backward", TORCH_BOX(&max_pool2d_backward));
  m.impl("max_pool2d_gather", TORCH_BOX(&max_pool2d_gather));
}

}  // namespace cnnext
