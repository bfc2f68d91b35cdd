// avg_pool2d on the CPU: checks, outputs, the choice of a kernel, threads, registration.
#include "avg_pool2d.h"

#include <optional>

#include "../torch/dispatch.h"
#include "../torch/pool2d_checks.h"
#include "avg_pool2d_kernel.h"
#include "parallel.h"
#include "workspace.h"

namespace cnnext {

template <typename T>
static auto choose_kernel(const PoolPlan& plan, bool channels_last,
                          const typename AvgPool2dKernels<T>::Pass& pass) {
  if (channels_last) return pass.channels;
  if (is_pairs(plan)) return pass.pairs;
  const PoolWindow* column = plan.columns.window;
  if (plan.columns.windows == 1 && column->end_tap - column->first_tap == plan.columns.size) return pass.wide;
  return rows_pay(plan) ? pass.rows : pass.uneven;
}

// Runs a kernel over `count` rows, each thread with scratch of its own.
template <typename T>
static void run_kernel(const PoolPlan& plan, typename AvgPool2dKernels<T>::Kernel kernel, const Tensor& from,
                       const Tensor& to, int64_t count, int64_t operations_each) {
  const int64_t bytes = plan.channels == 1 ? avg_pool2d_kernels<T>().scratch_bytes(plan) : 0;
  parallel_for(count, operations_each, [&](int64_t begin, int64_t end) {
    kernel(plan, data<T>(from), mutable_data<T>(to), workspace<char>(bytes), begin, end);
  });
}

Tensor average_windows(const Tensor& input, const PoolTables& rows, const PoolTables& columns) {
  const bool channels_last = is_channels_last(input);
  const PoolPlan plan = pool_plan(input.size(0), input.size(1), channels_last, rows, columns);
  const Tensor x = contiguous_as(input, channels_last);
  const Tensor y =
      empty(x, {input.size(0), input.size(1), plan.rows.windows, plan.columns.windows}, channels_last);
  dispatch_floating(x, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (plan.outputs() == 0) return;
    const int64_t count = plan.planes * plan.rows.windows;
    run_kernel<T>(plan, choose_kernel<T>(plan, channels_last, avg_pool2d_kernels<T>().forward), x, y, count,
                  plan.inputs() / count);
  });
  return y;
}

Tensor spread_windows(const Tensor& grad, const PoolTables& rows, const PoolTables& columns) {
  const bool channels_last = is_channels_last(grad);
  const PoolPlan plan = pool_plan(grad.size(0), grad.size(1), channels_last, rows, columns);
  const Tensor g = contiguous_as(grad, channels_last);
  const Tensor grad_x =
      empty(g, {grad.size(0), grad.size(1), plan.rows.size, plan.columns.size}, channels_last);
  dispatch_floating(g, "grad", [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (plan.inputs() == 0) return;
    if (plan.outputs() == 0) {  // no window: an adaptive pool to nothing
      std::memset(grad_x.mutable_data_ptr(), 0, static_cast<size_t>(plan.inputs()) * sizeof(T));
      return;
    }
    const auto kernel = choose_kernel<T>(plan, channels_last, avg_pool2d_kernels<T>().backward);
    const bool pairs = kernel == avg_pool2d_kernels<T>().backward.pairs;
    run_kernel<T>(plan, kernel, g, grad_x, plan.planes * (pairs ? plan.rows.windows : plan.rows.size),
                  2 * plan.columns.size * plan.channels);
  });
  return grad_x;
}

namespace {

struct AveragePoolTables {
  PoolTables rows, columns;

  AveragePoolTables(const Pool2dShape& shape, bool count_include_pad, std::optional<int64_t> divisor_override)
      : rows(PoolTables::uniform(shape.h, shape.p, shape.r, shape.stride_h, shape.pad_h, 1,
                                 count_include_pad)),
        columns(PoolTables::uniform(shape.w, shape.q, shape.s, shape.stride_w, shape.pad_w, 1,
                                    count_include_pad)) {
    if (!divisor_override) return;
    rows.override_divisor(*divisor_override);
    columns.override_divisor(1);
  }
};

Tensor avg_pool2d(const Tensor& input, Sizes kernel_size, Sizes stride, Sizes padding, bool ceil_mode,
                  bool count_include_pad, std::optional<int64_t> divisor_override) {
  check_divisor(divisor_override);
  const Pool2dShape shape = pool2d_shape(input, {kernel_size, stride, padding, kNoDilation}, ceil_mode);
  const AveragePoolTables tables(shape, count_include_pad, divisor_override);
  return average_windows(input, tables.rows, tables.columns);
}

Tensor avg_pool2d_backward(const Tensor& grad, Sizes input_size, Sizes kernel_size, Sizes stride,
                           Sizes padding, bool count_include_pad, std::optional<int64_t> divisor_override) {
  check_divisor(divisor_override);
  const Pool2dShape shape = pool2d_shape_from_output(
      input_size, "input_size", {kernel_size, stride, padding, kNoDilation}, grad, "grad");
  const AveragePoolTables tables(shape, count_include_pad, divisor_override);
  return spread_windows(grad, tables.rows, tables.columns);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cnnext, CPU, m) {
  m.impl("avg_pool2d", TORCH_BOX(&avg_pool2d));
  m.impl("avg_pool2d_backward", TORCH_BOX(&avg_pool2d_backward));
}

}  // namespace cnnext
