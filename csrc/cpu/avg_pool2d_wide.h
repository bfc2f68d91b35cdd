// Average pools for NCHW with one window as wide as the image, such as the global average: a window is one
// run of memory.
#pragma once

#include "avg_pool2d_rows.h"

namespace cnnext::CNNEXT_ISA {

// Several of them at a time: the lanes of kLanes sums are added up together, which ends in one vector of
// outputs.
template <int kVectors, typename T, typename C = compute_t<T>>
CNNEXT_INLINE Vec<C> sum_short_run(const T* run, int64_t length) {  // the last of the vectors may be shorter
  constexpr int64_t kLast = (kVectors - 1) * kLanes<C>;
  Vec<C> sum = load_first(run + kLast, length - kLast);
  for (int64_t i = 0; i < kLast; i += kLanes<C>) sum += load(run + i);
  return sum;
}

// In blocks, so that a value takes part in few additions: the error grows with their number.
template <typename T, typename C = compute_t<T>>
CNNEXT_INLINE Vec<C> sum_long_run(const T* run, int64_t length) {
  constexpr int64_t L = kLanes<C>, kBlock = 64 * L;
  Vec<C> total{};
  for (int64_t block = 0; block < length; block += kBlock) {
    const int64_t end = smaller(block + kBlock, length);
    Vec<C> sum[4] = {};
    int64_t i = block;
    for (; i + 4 * L <= end; i += 4 * L) {
      for (int64_t j = 0; j < 4; ++j) sum[j] += load(run + i + j * L);
    }
    for (; i < end; i += L) sum[0] += load_first(run + i, end - i);
    total += (sum[0] + sum[1]) + (sum[2] + sum[3]);
  }
  return total;
}

// Global averages of kLanes small planes: only the additions are left of the work on a plane.
template <int kVectors, typename T, typename C = compute_t<T>>
CNNEXT_INLINE Vec<C> sum_small_planes(const T* x, int64_t length) {
  Vec<C> sums[kLanes<C>];
  for (int64_t lane = 0; lane < kLanes<C>; ++lane)
    sums[lane] = sum_short_run<kVectors>(x + lane * length, length);
  return tree_sums<C>(sums);
}

// The order of the additions depends on the length alone, so that a plane's bits do not depend on its place
// in a block.
template <typename T>
CNNEXT_INLINE Vec<compute_t<T>> sum_run(const T* run, int64_t length) {
  switch (ceil_div<int64_t>(length, kLanes<compute_t<T>>)) {
    case 1:
      return sum_short_run<1>(run, length);
    case 2:
      return sum_short_run<2>(run, length);
    case 3:
      return sum_short_run<3>(run, length);
    case 4:
      return sum_short_run<4>(run, length);
    default:
      return sum_long_run(run, length);
  }
}

template <typename T>
CNNEXT_INLINE Vec<compute_t<T>> sum_planes(const T* x, int64_t length) {
  using C = compute_t<T>;
  switch (ceil_div<int64_t>(length, kLanes<C>)) {
    case 1:
      return sum_small_planes<1>(x, length);
    case 2:
      return sum_small_planes<2>(x, length);
    case 3:
      return sum_small_planes<3>(x, length);
    case 4:
      return sum_small_planes<4>(x, length);
    default:
      break;
  }
  Vec<C> sums[kLanes<C>];
  for (int64_t lane = 0; lane < kLanes<C>; ++lane) sums[lane] = sum_long_run(x + lane * length, length);
  return tree_sums<C>(sums);
}

template <typename T>
static void forward_wide(const PoolPlan& plan, const T* x, T* y, void*, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  constexpr int64_t L = kLanes<C>;
  const PoolAxis& rows = plan.rows;
  const int64_t width = plan.columns.size, column_divisor = plan.columns.window[0].divisor;
  int64_t unit = begin;
  if (rows.windows == 1 && rows.window[0].end_tap - rows.window[0].first_tap == rows.size) {
    const int64_t length = rows.size * width;
    const Vec<C> divisor = broadcast(static_cast<C>(rows.window[0].divisor * column_divisor));
    for (; unit + L <= end; unit += L) store(y + unit, sum_planes(x + unit * length, length) / divisor);
  }
  for (; unit < end; ++unit) {
    const PoolWindow& window = rows.window[unit % rows.windows];
    const int64_t first = unit / rows.windows * rows.size + window.origin + window.first_tap;
    const Vec<C> sum = sum_run(x + first * width, (window.end_tap - window.first_tap) * width);
    y[unit] = from_compute<T>(tree_sum<C>(sum) / static_cast<C>(window.divisor * column_divisor));
  }
}

template <typename T>
static void backward_wide(const PoolPlan& plan, const T* grad, T* grad_x, void*, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const PoolAxis& rows = plan.rows;
  const int64_t width = plan.columns.size, column_divisor = plan.columns.window[0].divisor;
  int64_t plane = begin / rows.size, h = begin % rows.size;
  for (int64_t unit = begin; unit < end;) {
    const PoolCover& cover = rows.cover[h];
    int64_t next = h + 1;  // rows [h, next) lie under the same windows
    while (next < rows.size && next - h < end - unit && same_cover(rows.cover[next], cover)) ++next;
    C sum = 0;
    for (int64_t k = 0; k < cover.count; ++k) {
      const int64_t p = cover.window + k * rows.window_step;
      sum += to_compute(grad[plane * rows.windows + p]) /
             static_cast<C>(rows.window[p].divisor * column_divisor);
    }
    T* run = grad_x + unit * width;
    const int64_t writable = (end - unit) * width;
    for (int64_t i = 0; i < (next - h) * width; i += kLanes<C>)
      store_first(run + i, broadcast(sum), writable - i);
    unit += next - h;
    h = next;
    if (h == rows.size) h = 0, ++plane;
  }
}

}  // namespace cnnext::CNNEXT_ISA
