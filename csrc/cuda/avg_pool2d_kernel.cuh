// Average pools, uniform and adaptive.   y[n,c,p,q] = Σ over the pixels of window (p,q) of x[n,c,h,w] /
// divisor(p,q)
//
// Sums are of compute precision (float for 16-bit storage): the pixels of a row are added, then the rows.
// Backward gathers: each pixel adds up grad / divisor of the windows over it, without atomics, so that the
// bits are the same every time. Idea: as for max_pool2d, 16-byte vectors of channels in NHWC and staged rows
// in NCHW (pool2d_plan.cuh); windows that are worth several threads are in avg_pool2d_window_kernel.cuh.
#pragma once

#include "avg_pool2d_window_kernel.cuh"
#include "device/launch.cuh"
#include "pool2d_config.cuh"

namespace cnnext {

// ---- any layout, N channels a thread: a whole vector, or one ----

template <class T, int N>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocks)
    avg_pool2d_forward_direct_kernel(PoolPlan plan, PoolUnits units, PoolDivisor<compute_t<T>> divisor,
                                     const T* x, T* y) {
  using C = compute_t<T>;
  const int64_t unit = pool_unit();
  if (unit >= units.count) return;
  const auto at = units.place(unit);
  const PoolWindow row = plan.rows.window(at.row), column = plan.columns.window(at.column);
  const int64_t plane = at.plane * plan.rows.size;
  C sum[N] = {};
  for (int h = row.origin + row.first_tap; h < row.origin + row.end_tap; ++h) {
    C of_row[N] = {};
    const int64_t line = (plane + h) * plan.columns.size;
    for (int w = column.origin + column.first_tap; w < column.origin + column.end_tap; ++w) {
      T values[N];
      device::load_values(x + (line + w) * plan.channels + at.vector * N, values);
#pragma unroll
      for (int i = 0; i < N; ++i) of_row[i] += device::to_compute(values[i]);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] += of_row[i];
  }
  const C count = divisor.of(plan, row, column);
  T values[N];
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = device::from_compute<T>(sum[i] / count);
  device::store_values(y + unit * N, values);
}

template <class T, int N>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocksOfDivisions)
    avg_pool2d_backward_direct_kernel(PoolPlan plan, PoolUnits units, PoolDivisor<compute_t<T>> divisor,
                                      const T* grad, T* grad_x) {
  using C = compute_t<T>;
  const int64_t unit = pool_unit();
  if (unit >= units.count) return;
  const auto at = units.place(unit);
  const PoolCover row = plan.rows.cover(at.row), column = plan.columns.cover(at.column);
  C sum[N] = {};
  for (int p = row.first; p <= row.last; ++p) {
    const PoolWindow row_window = plan.rows.window(p);
    const int64_t line = (at.plane * plan.rows.windows + p) * plan.columns.windows;
    for (int q = column.first; q <= column.last; ++q) {
      const C count = divisor.of(plan, row_window, plan.columns.window(q));
      T values[N];
      device::load_values(grad + (line + q) * plan.channels + at.vector * N, values);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += device::to_compute(values[i]) / count;
    }
  }
  T values[N];
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = device::from_compute<T>(sum[i]);
  device::store_values(grad_x + unit * N, values);
}

// ---- NCHW through shared memory ----

template <class T>
__global__ void __launch_bounds__(kPoolThreads)
    avg_pool2d_forward_staged_kernel(PoolPlan plan, PoolTiles tiles, PoolDivisor<compute_t<T>> divisor,
                                     const T* x, T* y) {
  using C = compute_t<T>;
  T* shared = reinterpret_cast<T*>(&device::dynamic_shared<unsigned char>());
  const PoolTile tile = pool_tile<ForwardPass>(plan, tiles);
  const T* staged = shared + stage(x, tile.source_begin, tile.source_end, plan.pixels(), shared);
  device::cp_async_commit();
  device::cp_async_wait<0>();
  __syncthreads();
  for_targets<ForwardPass>(plan, tiles, tile, [&](int p, int q, int base, int64_t index) {
    const PoolWindow row = plan.rows.window(p), column = plan.columns.window(q);
    C sum = 0;
    for (int r = row.first_tap; r < row.end_tap; ++r) {
      const T* line = staged + (base + row.origin + r) * plan.columns.size + column.origin;
      C of_row = 0;
      for (int s = column.first_tap; s < column.end_tap; ++s) of_row += device::to_compute(line[s]);
      sum += of_row;
    }
    y[index] = device::from_compute<T>(sum / divisor.of(plan, row, column));
  });
}

template <class T>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocksOfDivisions)
    avg_pool2d_backward_staged_kernel(PoolPlan plan, PoolTiles tiles, PoolDivisor<compute_t<T>> divisor,
                                      const T* grad, T* grad_x) {
  using C = compute_t<T>;
  T* shared = reinterpret_cast<T*>(&device::dynamic_shared<unsigned char>());
  const PoolTile tile = pool_tile<BackwardPass>(plan, tiles);
  const T* staged = shared + stage(grad, tile.source_begin, tile.source_end, plan.outputs(), shared);
  device::cp_async_commit();
  device::cp_async_wait<0>();
  __syncthreads();
  for_targets<BackwardPass>(plan, tiles, tile, [&](int h, int w, int base, int64_t index) {
    const PoolCover row = plan.rows.cover(h), column = plan.columns.cover(w);
    C sum = 0;
    for (int p = row.first; p <= row.last; ++p) {
      const PoolWindow row_window = plan.rows.window(p);
      const T* line = staged + (base + p) * plan.columns.windows;
      for (int q = column.first; q <= column.last; ++q) {
        sum += device::to_compute(line[q]) / divisor.of(plan, row_window, plan.columns.window(q));
      }
    }
    grad_x[index] = device::from_compute<T>(sum);
  });
}

// ---- launches ----

// A pool of averages, whatever its windows are.
struct AveragePool {
  PoolPlan plan;
  bool divisor_given;
  double divisor;

  template <class C>
  PoolDivisor<C> divisor_as() const {
    return {divisor_given, static_cast<C>(divisor)};
  }
};

template <class T>
PoolProblem avg_pool2d_problem(const PoolPlan& plan, bool backward, const T* from, const T* to) {
  return {plan,
          backward,
          true,
          sizeof(T),
          0,
          are_aligned({from, to}),
          device::current_device_limits().multiprocessors};
}

inline PoolSlices pool_slices(const PoolPlan& plan, int vector) {
  const int vectors = static_cast<int>(plan.channels / vector);
  int lanes = 1;
  while (lanes < device::kWarpSize && lanes < vectors) lanes *= 2;
  PoolUnits windows = pool_units<ForwardPass>(plan, 1);
  windows.vectors = device::IndexDivider(1);
  windows.count = plan.outputs() / plan.channels;
  return {windows, device::IndexDivider(ceil_div(vectors, lanes)), vectors, lanes};
}

template <class T>
void launch_avg_pool2d_forward(const AveragePool& pool, const T* x, T* y, cudaStream_t stream) {
  using namespace device;
  constexpr int N = kMaxVector<T>;
  const PoolPlan& plan = pool.plan;
  if (plan.outputs() == 0) return;
  const auto divisor = pool.divisor_as<compute_t<T>>();
  const PoolProblem problem = avg_pool2d_problem(plan, false, x, y);
  const PoolConfig& config = choose_pool_config(problem);
  const auto memory = {input("input", x, plan.pixels()), output("output", y, plan.outputs())};
  const auto text = [&] { return std::string(config.name) + ", " + describe(problem); };
  const auto units = pool_units<ForwardPass>(plan, config.algorithm == PoolAlgorithm::kChannels ? N : 1);
  switch (config.algorithm) {
    case PoolAlgorithm::kStaged: {
      const PoolTiles tiles = pool_tiles(problem, config);
      return launch(staged_launch("avg_pool2d_forward_staged_kernel", problem, tiles, stream), memory, text,
                    avg_pool2d_forward_staged_kernel<T>, plan, tiles, divisor, x, y);
    }
    case PoolAlgorithm::kChannels:
      return launch(direct_launch("avg_pool2d_forward_channels_kernel", units.count, stream), memory, text,
                    avg_pool2d_forward_direct_kernel<T, N>, plan, units, divisor, x, y);
    case PoolAlgorithm::kWarp:
      return launch(direct_launch("avg_pool2d_forward_warp_kernel", units.count * kWarpSize, stream), memory,
                    text, avg_pool2d_forward_warp_kernel<T>, plan, units, divisor, x, y);
    case PoolAlgorithm::kSlices: {
      const PoolSlices slices = pool_slices(plan, N);
      const int64_t blocks = slices.windows.count * slices.channel_blocks.divisor();
      return launch(direct_launch("avg_pool2d_forward_slices_kernel", blocks * kPoolThreads, stream), memory,
                    text, avg_pool2d_forward_slices_kernel<T, N>, plan, slices, divisor, x, y);
    }
    case PoolAlgorithm::kDirect:
      return launch(direct_launch("avg_pool2d_forward_direct_kernel", units.count, stream), memory, text,
                    avg_pool2d_forward_direct_kernel<T, 1>, plan, units, divisor, x, y);
  }
}

template <class T>
void launch_avg_pool2d_backward(const AveragePool& pool, const T* grad, T* grad_x, cudaStream_t stream) {
  using namespace device;
  constexpr int N = kMaxVector<T>;
  const PoolPlan& plan = pool.plan;
  if (plan.pixels() == 0) return;
  const auto divisor = pool.divisor_as<compute_t<T>>();
  const PoolProblem problem = avg_pool2d_problem(plan, true, grad, grad_x);
  const PoolConfig& config = choose_pool_config(problem);
  const auto memory = {input("grad", grad, plan.outputs()), output("grad_input", grad_x, plan.pixels())};
  const auto text = [&] { return std::string(config.name) + ", " + describe(problem); };
  if (config.algorithm == PoolAlgorithm::kStaged) {
    const PoolTiles tiles = pool_tiles(problem, config);
    return launch(staged_launch("avg_pool2d_backward_staged_kernel", problem, tiles, stream), memory, text,
                  avg_pool2d_backward_staged_kernel<T>, plan, tiles, divisor, grad, grad_x);
  }
  if (config.algorithm == PoolAlgorithm::kChannels) {
    const PoolUnits units = pool_units<BackwardPass>(plan, N);
    return launch(direct_launch("avg_pool2d_backward_channels_kernel", units.count, stream), memory, text,
                  avg_pool2d_backward_direct_kernel<T, N>, plan, units, divisor, grad, grad_x);
  }
  const PoolUnits units = pool_units<BackwardPass>(plan, 1);
  launch(direct_launch("avg_pool2d_backward_direct_kernel", units.count, stream), memory, text,
         avg_pool2d_backward_direct_kernel<T, 1>, plan, units, divisor, grad, grad_x);
}

}  // namespace cnnext
