// max_pool2d on the CPU: checks, outputs, the choice of a kernel, threads, registration.
#include "../torch/dispatch.h"
#include "../torch/pool2d_checks.h"
#include "max_pool2d_kernel.h"
#include "parallel.h"
#include "pool2d_tables.h"
#include "workspace.h"

namespace cnnext {

namespace {

// A plan and the tables it points into.
struct MaxPoolPlan {
  PoolTables rows, columns;
  PoolPlan plan;
  bool wide_tap;

  MaxPoolPlan(const Pool2dShape& shape, bool channels_last)
      : rows(PoolTables::uniform(shape.h, shape.p, shape.r, shape.stride_h, shape.pad_h, shape.dil_h)),
        columns(PoolTables::uniform(shape.w, shape.q, shape.s, shape.stride_w, shape.pad_w, shape.dil_w)),
        plan(pool_plan(shape.n, shape.c, channels_last, rows, columns)),
        wide_tap(!taps_fit_a_byte(shape.r, shape.s)) {}
};

template <typename Ways>
auto choose_kernel(const PoolPlan& plan, bool channels_last, const Ways& ways) {
  if (channels_last) return ways.channels;
  if (is_pairs(plan)) return ways.pairs;
  if (is_three_by_three(plan)) return ways.three_by_three;
  return rows_pay(plan) ? ways.rows : ways.channels;
}

ScalarType tap_dtype(const MaxPoolPlan& pool) { return pool.wide_tap ? ScalarType::Int : ScalarType::Byte; }

void check_tap(const Tensor& tap, const MaxPoolPlan& pool, const Sizes& shape) {
  check_shape(tap, "tap", shape);
  if (tap.scalar_type() == tap_dtype(pool)) return;
  check(false, "expected `tap` of dtype ", toString(tap_dtype(pool)), " for this kernel_size, but got ",
        toString(tap.scalar_type()));
}

// Runs a kernel over `count` rows, each thread with scratch of its own.
template <typename T, typename Run>
void run_rows(const MaxPoolPlan& pool, int64_t count, int64_t values_each, const Run& run) {
  const int64_t bytes = rows_pay(pool.plan) ? max_pool2d_kernels<T>().scratch_bytes(pool.plan) : 0;
  parallel_for(count, values_each,
               [&](int64_t begin, int64_t end) { run(workspace<char>(bytes), begin, end); });
}

std::tuple<Tensor, Tensor> max_pool2d(const Tensor& input, Sizes kernel_size, Sizes stride, Sizes padding,
                                      Sizes dilation, bool ceil_mode) {
  const Pool2dShape shape = pool2d_shape(input, {kernel_size, stride, padding, dilation}, ceil_mode);
  const bool channels_last = is_channels_last(input);
  const MaxPoolPlan pool(shape, channels_last);
  const Tensor x = contiguous_as(input, channels_last);
  const Sizes size = {shape.n, shape.c, shape.p, shape.q};
  const Tensor y = empty(x, size, channels_last), tap = empty(x, size, tap_dtype(pool), channels_last);
  dispatch_floating(x, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto& kernels = max_pool2d_kernels<T>();
    const auto forward = choose_kernel(pool.plan, channels_last, kernels.forward);
    const int64_t rows = pool.plan.planes * shape.p;
    run_rows<T>(pool, rows, shape.q * pool.plan.channels * shape.r * shape.s,
                [&](void* scratch, int64_t begin, int64_t end) {
                  forward(pool.plan, pool.wide_tap, data<T>(x), mutable_data<T>(y), tap.mutable_data_ptr(),
                          scratch, begin, end);
                });
  });
  return {y, tap};
}

Tensor max_pool2d_backward(const Tensor& grad, const Tensor& tap, Sizes input_size, Sizes kernel_size,
                           Sizes stride, Sizes padding, Sizes dilation) {
  const Pool2dShape shape = pool2d_shape_from_output(input_size, "input_size",
                                                     {kernel_size, stride, padding, dilation}, grad, "grad");
  const bool channels_last = is_channels_last(grad);
  const MaxPoolPlan pool(shape, channels_last);
  check_tap(tap, pool, sizes_of(grad));
  const Tensor g = contiguous_as(grad, channels_last), taps = contiguous_as(tap, channels_last);
  const Tensor grad_x = empty(g, input_size, channels_last);
  dispatch_floating(g, "grad", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto& kernels = max_pool2d_kernels<T>();
    const auto backward = choose_kernel(pool.plan, channels_last, kernels.backward);
    const bool pairs = backward == kernels.backward.pairs;
    const int64_t rows = pool.plan.planes * (pairs ? shape.p : shape.h);
    run_rows<T>(pool, rows, 4 * shape.w * pool.plan.channels, [&](void* scratch, int64_t begin, int64_t end) {
      backward(pool.plan, pool.wide_tap, data<T>(g), taps.const_data_ptr(), mutable_data<T>(grad_x), scratch,
               begin, end);
    });
  });
  return grad_x;
}

Tensor max_pool2d_gather(const Tensor& input, const Tensor& tap, Sizes kernel_size, Sizes stride,
                         Sizes padding, Sizes dilation) {
  const Pool2dShape shape = pool2d_shape_from_output(sizes_of(input), "input",
                                                     {kernel_size, stride, padding, dilation}, tap, "tap");
  const bool channels_last = is_channels_last(input);
  const MaxPoolPlan pool(shape, channels_last);
  check_tap(tap, pool, sizes_of(tap));
  const Tensor x = contiguous_as(input, channels_last), taps = contiguous_as(tap, channels_last);
  const Tensor y = empty(x, sizes_of(tap), channels_last);
  dispatch_floating(x, "input", [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(pool.plan.planes * shape.p, shape.q * pool.plan.channels, [&](int64_t begin, int64_t end) {
      max_pool2d_kernels<T>().gather(pool.plan, pool.wide_tap, data<T>(x), taps.const_data_ptr(),
                                     mutable_data<T>(y), nullptr, begin, end);
    });
  });
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cnnext, CPU, m) {
  m.impl("max_pool2d", TORCH_BOX(&max_pool2d));
  m.impl("max_pool2d_backward", TORCH_BOX(&max_pool2d_backward));
  m.impl("max_pool2d_gather", TORCH_BOX(&max_pool2d_gather));
}

}  // namespace cnnext
