// avg_pool2d on CUDA: checks, outputs, launches, registration.
#include "../torch/pool2d_checks.h"
#include "avg_pool2d.h"
#include "avg_pool2d_kernel.cuh"
#include "context.h"

namespace cnnext {

static AveragePool average_pool(const Tensor& tensor, bool channels_last, const PoolAxis& rows,
                                const PoolAxis& columns, std::optional<int64_t> divisor) {
  const int64_t n = tensor.size(0), c = tensor.size(1);
  const PoolPlan plan{channels_last ? n : n * c, channels_last ? c : 1, rows, columns};
  return {plan, divisor.has_value(), static_cast<double>(divisor.value_or(1))};
}

Tensor average_windows(const Tensor& input, const PoolAxis& rows, const PoolAxis& columns,
                       std::optional<int64_t> divisor) {
  const CudaScope scope(input);
  const bool channels_last = is_channels_last(input);
  const AveragePool pool = average_pool(input, channels_last, rows, columns, divisor);
  const Tensor x = contiguous_as(input, channels_last);
  const Tensor y = empty(x, {input.size(0), input.size(1), rows.windows, columns.windows}, channels_last);
  dispatch_cuda_floating(x, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_avg_pool2d_forward(pool, data<T>(x), mutable_data<T>(y), scope.stream());
  });
  return y;
}

Tensor spread_windows(const Tensor& grad, const PoolAxis& rows, const PoolAxis& columns,
                      std::optional<int64_t> divisor) {
  const CudaScope scope(grad);
  const bool channels_last = is_channels_last(grad);
  const AveragePool pool = average_pool(grad, channels_last, rows, columns, divisor);
  const Tensor g = contiguous_as(grad, channels_last);
  const Tensor grad_x = empty(g, {grad.size(0), grad.size(1), rows.size, columns.size}, channels_last);
  dispatch_cuda_floating(g, "grad", [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_avg_pool2d_backward(pool, data<T>(g), mutable_data<T>(grad_x), scope.stream());
  });
  return grad_x;
}

namespace {

struct Axes {
  PoolAxis rows, columns;

  Axes(const Pool2dShape& shape, bool count_include_pad)
      : rows(uniform_pool_axis(shape.h, shape.p, shape.r, shape.stride_h, shape.pad_h, 1, count_include_pad)),
        columns(uniform_pool_axis(shape.w, shape.q, shape.s, shape.stride_w, shape.pad_w, 1,
                                  count_include_pad)) {}
};

Tensor avg_pool2d(const Tensor& input, Sizes kernel_size, Sizes stride, Sizes padding, bool ceil_mode,
                  bool count_include_pad, std::optional<int64_t> divisor_override) {
  check_divisor(divisor_override);
  const Pool2dShape shape = pool2d_shape(input, {kernel_size, stride, padding, kNoDilation}, ceil_mode);
  const Axes axes(shape, count_include_pad);
  return average_windows(input, axes.rows, axes.columns, divisor_override);
}

Tensor avg_pool2d_backward(const Tensor& grad, Sizes input_size, Sizes kernel_size, Sizes stride,
                           Sizes padding, bool count_include_pad, std::optional<int64_t> divisor_override) {
  check_divisor(divisor_override);
  const Pool2dShape shape = pool2d_shape_from_output(
      input_size, "input_size", {kernel_size, stride, padding, kNoDilation}, grad, "grad");
  const Axes axes(shape, count_include_pad);
  return spread_windows(grad, axes.rows, axes.columns, divisor_override);
}

}  // namespace

CNNEXT_CUDA_LIBRARY_IMPL(m) {
  m.impl("avg_pool2d", TORCH_BOX(&avg_pool2d));
  m.impl("avg_pool2d_backward", TORCH_BOX(&avg_pool2d_backward));
}

}  // namespace cnnext
