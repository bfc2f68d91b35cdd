// max_pool2d, forward, backward and gather.   y[n,c,p,q] = max over the taps (r,s) inside the input of
// x[n,c,h,w]
//
// tap[] is r·S + s of the winner: the first maximum in that order, or the last NaN, for a NaN wins over
// everything (both as in torch). With it the backward pass is a gather: each pixel asks the windows over it
// whether it won, so that nothing is added by atomics and the bits are the same every time. Idea: memory is
// moved by 16-byte vectors in both layouts: of channels in NHWC, of staged rows in NCHW (pool2d_plan.cuh).
// What neither can take goes value by value, in any layout. Limits: windows of more than 256 taps have 32-bit
// taps and go value by value.
#pragma once

#include "device/launch.cuh"
#include "pool2d_config.cuh"

namespace cnnext {

template <class C>
CNNEXT_DEVICE void challenge(C value, int tap, C& best, int& winner) {
  if (value > best || value != value) {
    best = value;
    winner = tap;
  }
}

template <class C>
CNNEXT_DEVICE C lowest() {
  return -static_cast<C>(INFINITY);
}

// ---- any layout, N channels a thread: a whole vector, or one ----

template <class T, class Tap, int N>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocks)
    max_pool2d_forward_direct_kernel(PoolPlan plan, PoolUnits units, const T* x, T* y, Tap* tap) {
  const int64_t unit = pool_unit();
  if (unit >= units.count) return;
  const auto at = units.place(unit);
  const PoolWindow row = plan.rows.window(at.row), column = plan.columns.window(at.column);
  compute_t<T> best[N];
  int winner[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    best[i] = lowest<compute_t<T>>();
    winner[i] = row.first_tap * plan.columns.taps + column.first_tap;
  }
  const int64_t first_pixel = at.plane * plan.rows.size * plan.columns.size;
  for (int r = row.first_tap; r < row.end_tap; ++r) {
    const int64_t line = first_pixel + int64_t{row.origin + r * plan.rows.dilation} * plan.columns.size;
    for (int s = column.first_tap; s < column.end_tap; ++s) {
      const int64_t pixel = line + column.origin + s * plan.columns.dilation;
      T values[N];
      device::load_values(x + pixel * plan.channels + at.vector * N, values);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        challenge(device::to_compute(values[i]), r * plan.columns.taps + s, best[i], winner[i]);
      }
    }
  }
  T values[N];
  Tap taps[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    values[i] = device::from_compute<T>(best[i]);
    taps[i] = static_cast<Tap>(winner[i]);
  }
  device::store_values(y + unit * N, values);
  device::store_values(tap + unit * N, taps);
}

template <class T, class Tap, int N>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocks)
    max_pool2d_backward_direct_kernel(PoolPlan plan, PoolUnits units, const T* grad, const Tap* tap,
                                      T* grad_x) {
  const int64_t unit = pool_unit();
  if (unit >= units.count) return;
  const auto at = units.place(unit);
  const PoolCover row = plan.rows.cover(at.row), column = plan.columns.cover(at.column);
  compute_t<T> sum[N] = {};
  const int64_t first_window = at.plane * plan.rows.windows * plan.columns.windows;
  for (int p = row.first, r = row.tap; p <= row.last; p += plan.rows.window_step, r -= plan.rows.tap_step) {
    const int64_t line = first_window + int64_t{p} * plan.columns.windows;
    for (int q = column.first, s = column.tap; q <= column.last;
         q += plan.columns.window_step, s -= plan.columns.tap_step) {
      const int64_t from = (line + q) * plan.channels + at.vector * N;
      T values[N];
      Tap taps[N];
      device::load_values(tap + from, taps);
      device::load_values(grad + from, values);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if (static_cast<int>(taps[i]) == r * plan.columns.taps + s) sum[i] += device::to_compute(values[i]);
      }
    }
  }
  T values[N];
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = device::from_compute<T>(sum[i]);
  device::store_values(grad_x + unit * N, values);
}

// y = x at the tap of each window: what the backward pass is the transpose of. A tap outside the input, which
// no forward pass writes, gives 0, as backward gives nothing for it.
template <class T, class Tap>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocks)
    max_pool2d_gather_direct_kernel(PoolPlan plan, PoolUnits units, const T* x, const Tap* tap, T* y) {
  const int64_t unit = pool_unit();
  if (unit >= units.count) return;
  const auto at = units.place(unit);
  const PoolWindow row = plan.rows.window(at.row), column = plan.columns.window(at.column);
  const int code = static_cast<int>(tap[unit]), r = code / plan.columns.taps, s = code % plan.columns.taps;
  const bool inside = r >= row.first_tap && r < row.end_tap && s >= column.first_tap && s < column.end_tap;
  T value{};
  if (inside) {
    const int64_t line = at.plane * plan.rows.size + row.origin + r * plan.rows.dilation;
    const int64_t pixel = line * plan.columns.size + column.origin + s * plan.columns.dilation;
    value = x[pixel * plan.channels + at.vector];
  }
  y[unit] = value;
}

// ---- NCHW through shared memory ----

template <class T>
__global__ void __launch_bounds__(kPoolThreads)
    max_pool2d_forward_staged_kernel(PoolPlan plan, PoolTiles tiles, const T* x, T* y, uint8_t* tap) {
  T* shared = reinterpret_cast<T*>(&device::dynamic_shared<unsigned char>());
  const PoolTile tile = pool_tile<ForwardPass>(plan, tiles);
  const T* staged = shared + stage(x, tile.source_begin, tile.source_end, plan.pixels(), shared);
  device::cp_async_commit();
  device::cp_async_wait<0>();
  __syncthreads();
  for_targets<ForwardPass>(plan, tiles, tile, [&](int p, int q, int base, int64_t index) {
    const PoolWindow row = plan.rows.window(p), column = plan.columns.window(q);
    compute_t<T> best = lowest<compute_t<T>>();
    int winner = row.first_tap * plan.columns.taps + column.first_tap;
    for (int r = row.first_tap; r < row.end_tap; ++r) {
      const int line = (base + row.origin + r * plan.rows.dilation) * plan.columns.size + column.origin;
      for (int s = column.first_tap; s < column.end_tap; ++s) {
        const T value = staged[line + s * plan.columns.dilation];
        challenge(device::to_compute(value), r * plan.columns.taps + s, best, winner);
      }
    }
    y[index] = device::from_compute<T>(best);
    tap[index] = static_cast<uint8_t>(winner);
  });
}

template <class T>
__global__ void __launch_bounds__(kPoolThreads)
    max_pool2d_backward_staged_kernel(PoolPlan plan, PoolTiles tiles, const T* grad, const uint8_t* tap,
                                      T* grad_x) {
  unsigned char* shared = &device::dynamic_shared<unsigned char>();
  const PoolTile tile = pool_tile<BackwardPass>(plan, tiles);
  T* grads = reinterpret_cast<T*>(shared);
  uint8_t* taps = shared + staged_bytes(int64_t{tiles.source_rows} * plan.columns.windows, sizeof(T));
  grads += stage(grad, tile.source_begin, tile.source_end, plan.outputs(), grads);
  taps += stage(tap, tile.source_begin, tile.source_end, plan.outputs(), taps);
  device::cp_async_commit();
  device::cp_async_wait<0>();
  __syncthreads();
  for_targets<BackwardPass>(plan, tiles, tile, [&](int h, int w, int base, int64_t index) {
    const PoolCover row = plan.rows.cover(h), column = plan.columns.cover(w);
    compute_t<T> sum = 0;
    for (int p = row.first, r = row.tap; p <= row.last; p += plan.rows.window_step, r -= plan.rows.tap_step) {
      const int line = (base + p) * plan.columns.windows;
      for (int q = column.first, s = column.tap; q <= column.last;
           q += plan.columns.window_step, s -= plan.columns.tap_step) {
        if (taps[line + q] == r * plan.columns.taps + s) sum += device::to_compute(grads[line + q]);
      }
    }
    grad_x[index] = device::from_compute<T>(sum);
  });
}

// ---- launches ----

inline PoolPlan max_pool2d_plan(const Pool2dShape& shape, bool channels_last) {
  return {channels_last ? shape.n : shape.n * shape.c, channels_last ? shape.c : 1,
          uniform_pool_axis(shape.h, shape.p, shape.r, shape.stride_h, shape.pad_h, shape.dil_h),
          uniform_pool_axis(shape.w, shape.q, shape.s, shape.stride_w, shape.pad_w, shape.dil_w)};
}

template <class T, class Tap>
PoolProblem max_pool2d_problem(const PoolPlan& plan, bool backward,
                               std::initializer_list<const void*> tensors) {
  return {plan,
          backward,
          false,
          sizeof(T),
          sizeof(Tap),
          are_aligned(tensors),
          device::current_device_limits().multiprocessors};
}

template <class T, class Tap>
void launch_max_pool2d_forward(const PoolPlan& plan, const T* x, T* y, Tap* tap, cudaStream_t stream) {
  using namespace device;
  if (plan.outputs() == 0) return;
  const PoolProblem problem = max_pool2d_problem<T, Tap>(plan, false, {x, y, tap});
  const PoolConfig& config = choose_pool_config(problem);
  const auto memory = {input("input", x, plan.pixels()), output("output", y, plan.outputs()),
                       output("tap", tap, plan.outputs())};
  const auto text = [&] { return std::string(config.name) + ", " + describe(problem); };
  if constexpr (sizeof(Tap) == 1) {
    if (config.algorithm == PoolAlgorithm::kStaged) {
      const PoolTiles tiles = pool_tiles(problem, config);
      return launch(staged_launch("max_pool2d_forward_staged_kernel", problem, tiles, stream), memory, text,
                    max_pool2d_forward_staged_kernel<T>, plan, tiles, x, y, tap);
    }
    if (config.algorithm == PoolAlgorithm::kChannels) {
      constexpr int N = kMaxVector<T>;
      const PoolUnits units = pool_units<ForwardPass>(plan, N);
      return launch(direct_launch("max_pool2d_forward_channels_kernel", units.count, stream), memory, text,
                    max_pool2d_forward_direct_kernel<T, Tap, N>, plan, units, x, y, tap);
    }
  }
  const PoolUnits units = pool_units<ForwardPass>(plan, 1);
  launch(direct_launch("max_pool2d_forward_direct_kernel", units.count, stream), memory, text,
         max_pool2d_forward_direct_kernel<T, Tap, 1>, plan, units, x, y, tap);
}

template <class T, class Tap>
void launch_max_pool2d_backward(const PoolPlan& plan, const T* grad, const Tap* tap, T* grad_x,
                                cudaStream_t stream) {
  using namespace device;
  if (plan.pixels() == 0) return;
  const PoolProblem problem = max_pool2d_problem<T, Tap>(plan, true, {grad, tap, grad_x});
  const PoolConfig& config = choose_pool_config(problem);
  const auto memory = {input("grad", grad, plan.outputs()), input("tap", tap, plan.outputs()),
                       output("grad_input", grad_x, plan.pixels())};
  const auto text = [&] { return std::string(config.name) + ", " + describe(problem); };
  if constexpr (sizeof(Tap) == 1) {
    if (config.algorithm == PoolAlgorithm::kStaged) {
      const PoolTiles tiles = pool_tiles(problem, config);
      return launch(staged_launch("max_pool2d_backward_staged_kernel", problem, tiles, stream), memory, text,
                    max_pool2d_backward_staged_kernel<T>, plan, tiles, grad, tap, grad_x);
    }
    if (config.algorithm == PoolAlgorithm::kChannels) {
      constexpr int N = kMaxVector<T>;
      const PoolUnits units = pool_units<BackwardPass>(plan, N);
      return launch(direct_launch("max_pool2d_backward_channels_kernel", units.count, stream), memory, text,
                    max_pool2d_backward_direct_kernel<T, Tap, N>, plan, units, grad, tap, grad_x);
    }
  }
  const PoolUnits units = pool_units<BackwardPass>(plan, 1);
  launch(direct_launch("max_pool2d_backward_direct_kernel", units.count, stream), memory, text,
         max_pool2d_backward_direct_kernel<T, Tap, 1>, plan, units, grad, tap, grad_x);
}

template <class T, class Tap>
void launch_max_pool2d_gather(const PoolPlan& plan, const T* x, const Tap* tap, T* y, cudaStream_t stream) {
  using namespace device;
  if (plan.outputs() == 0) return;
  const PoolUnits units = pool_units<ForwardPass>(plan, 1);
  const PoolProblem problem = max_pool2d_problem<T, Tap>(plan, false, {x, tap, y});
  launch(
      direct_launch("max_pool2d_gather_direct_kernel", units.count, stream),
      {input("input", x, plan.pixels()), input("tap", tap, plan.outputs()),
       output("output", y, plan.outputs())},
      [&] { return describe(problem); }, max_pool2d_gather_direct_kernel<T, Tap>, plan, units, x, tap, y);
}

}  // namespace cnnext
