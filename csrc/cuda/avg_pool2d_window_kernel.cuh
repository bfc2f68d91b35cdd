// avg_pool2d and adaptive_avg_pool2d, forward, for windows so large that several threads share one, such as
// the global average at the end of a ResNet.
//
// Sums are of compute precision (float for 16-bit storage). Each thread adds its pixels in groups of 16, and
// the threads' sums are added as a tree: a value takes part in few additions, and their order is fixed.
#pragma once

#include "device/warp.cuh"
#include "pool2d_plan.cuh"

namespace cnnext {

// What a sum is divided by: the pixels of the window, by PoolAxis::divisor, or a number for all windows.
template <class C>
struct PoolDivisor {
  bool given;
  C value;

  CNNEXT_DEVICE C of(const PoolPlan& plan, const PoolWindow& row, const PoolWindow& column) const {
    return given ? value
                 : static_cast<C>(plan.rows.divisor(row)) * static_cast<C>(plan.columns.divisor(column));
  }
};

// N sums, each in two levels.
template <class C, int N>
class GroupedSum {
 public:
  CNNEXT_DEVICE void add(int i, C value) { group_[i] += value; }

  // After each term of all N.
  CNNEXT_DEVICE void next_term() {
    if (++terms_ % kGroup != 0) return;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      total_[i] += group_[i];
      group_[i] = 0;
    }
  }

  CNNEXT_DEVICE C total(int i) const { return total_[i] + group_[i]; }

 private:
  static constexpr int kGroup = 16;
  int terms_ = 0;
  C group_[N] = {}, total_[N] = {};
};

// The pixels of a window in order of memory, `step` at a time, without a division for each.
class WindowWalk {
 public:
  CNNEXT_DEVICE WindowWalk(const PoolWindow& row, const PoolWindow& column, int first, int step)
      : columns_(column.end_tap - column.first_tap), rows_(row.end_tap - row.first_tap) {
    if (columns_ == 0 || rows_ == 0) return;
    r_ = first / columns_, s_ = first % columns_;
    row_step_ = step / columns_, column_step_ = step % columns_;
  }

  CNNEXT_DEVICE bool inside() const { return r_ < rows_; }
  CNNEXT_DEVICE int r() const { return r_; }
  CNNEXT_DEVICE int s() const { return s_; }

  CNNEXT_DEVICE void advance() {
    r_ += row_step_, s_ += column_step_;
    if (s_ >= columns_) s_ -= columns_, ++r_;
  }

 private:
  int columns_, rows_, r_ = 0, s_ = 0, row_step_ = 1, column_step_ = 0;
};

// NCHW: a warp for each window. The lanes read neighbouring pixels.
template <class T>
__global__ void __launch_bounds__(kPoolThreads)
    avg_pool2d_forward_warp_kernel(PoolPlan plan, PoolUnits units, PoolDivisor<compute_t<T>> divisor,
                                   const T* x, T* y) {
  using C = compute_t<T>;
  constexpr int kWarps = kPoolThreads / device::kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / device::kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % device::kWarpSize;
  const int64_t unit = int64_t{blockIdx.x} * kWarps + warp;
  if (unit >= units.count) return;  // the whole warp; there is no barrier
  const auto at = units.place(unit);
  const PoolWindow row = plan.rows.window(at.row), column = plan.columns.window(at.column);
  const int64_t first_line = at.plane * plan.rows.size + row.origin + row.first_tap;
  const T* corner = x + first_line * plan.columns.size + column.origin + column.first_tap;
  GroupedSum<C, 1> sum;
  for (WindowWalk walk(row, column, lane, device::kWarpSize); walk.inside(); walk.advance()) {
    sum.add(0, device::to_compute(corner[int64_t{walk.r()} * plan.columns.size + walk.s()]));
    sum.next_term();
  }
  const C total = device::warp_sum(sum.total(0));
  if (lane == 0) y[unit] = device::from_compute<T>(total / divisor.of(plan, row, column));
}

// NHWC: a block for some vectors of channels of one window. `lanes` threads, a power of two, take
// neighbouring vectors, and 256 / lanes slices of them the pixels in turn.
struct PoolSlices {
  PoolUnits windows;  // one unit each
  device::IndexDivider channel_blocks;
  int vectors, lanes;
};

template <class C, int N>
struct SliceSums {
  C value[N][kPoolThreads];
};

template <class T, int N>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocksOfDivisions)
    avg_pool2d_forward_slices_kernel(PoolPlan plan, PoolSlices slices, PoolDivisor<compute_t<T>> divisor,
                                     const T* x, T* y) {
  using C = compute_t<T>;
  auto& shared = device::static_shared<SliceSums<C, N>>();
  const int thread = static_cast<int>(threadIdx.x), lane = thread & (slices.lanes - 1);
  const int64_t window = slices.channel_blocks.divide(int64_t{blockIdx.x});
  const int64_t channel_block = blockIdx.x - window * slices.channel_blocks.divisor();
  const int64_t vector = channel_block * slices.lanes + lane;
  const auto at = slices.windows.place(window);
  const PoolWindow row = plan.rows.window(at.row), column = plan.columns.window(at.column);
  const int64_t first_line = at.plane * plan.rows.size + row.origin + row.first_tap;
  const int64_t corner = first_line * plan.columns.size + column.origin + column.first_tap;
  GroupedSum<C, N> sum;
  if (vector < slices.vectors) {
    WindowWalk walk(row, column, thread / slices.lanes, kPoolThreads / slices.lanes);
    for (; walk.inside(); walk.advance()) {
      const int64_t pixel = corner + int64_t{walk.r()} * plan.columns.size + walk.s();
      T values[N];
      device::load_values(x + pixel * plan.channels + vector * N, values);
#pragma unroll
      for (int i = 0; i < N; ++i) sum.add(i, device::to_compute(values[i]));
      sum.next_term();
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) shared.value[i][thread] = sum.total(i);
  for (int left = kPoolThreads / 2; left >= slices.lanes; left /= 2) {
    __syncthreads();
    if (thread < left) {
#pragma unroll
      for (int i = 0; i < N; ++i) shared.value[i][thread] += shared.value[i][thread + left];
    }
  }
  if (thread >= slices.lanes || vector >= slices.vectors) return;
  const C count = divisor.of(plan, row, column);
  T values[N];
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = device::from_compute<T>(shared.value[i][thread] / count);
  device::store_values(y + (window * slices.vectors + vector) * N, values);
}

}  // namespace cnnext
