// Average pools for NCHW, evenly spaced windows: neighbouring windows in the lanes (pool2d_phases.h says
// how).
//
// The sum is separable: the rows of a window are added first, at full width and in registers, then the
// horizontal taps of the sums. Backward runs the other way, and rows under the same windows share one result.
#pragma once

#include "avg_pool2d_kernel.h"
#include "pool2d_phases.h"

namespace cnnext::CNNEXT_ISA {

template <typename C>
struct AverageRows {
  Phases phases;
  TapsByPhase taps;
  int64_t margin, length;  // of a row of windows, in whole vectors
  C* sums;                 // the phases of one row
  C* windows;              // [length] backward: a row of windows between zeros
  C* divisors;             // [windows] horizontally
  int64_t* offset;         // [taps] of a tap within the phases

  AverageRows(const PoolPlan& plan, Arena& arena)
      : phases(phases_of<C>(plan.columns)), taps(plan.columns, arena) {
    const PoolAxis& columns = plan.columns;
    margin = round_up<int64_t>(taps.margin, kLanes<C>);
    length = margin + round_up(larger(columns.windows, phases.length), int64_t{kLanes<C>}) + kLanes<C>;
    sums = arena.take<C>(phases.total());
    windows = arena.take<C>(length);
    divisors = arena.take<C>(columns.windows + kLanes<C>);
    offset = arena.take<int64_t>(columns.taps);
  }

  void start(const PoolAxis& columns) {
    taps.start(columns);
    for (int64_t i = 0; i < phases.total(); ++i) sums[i] = 0;
    for (int64_t i = 0; i < length; ++i) windows[i] = 0;
    for (int64_t q = 0; q < columns.windows; ++q) divisors[q] = static_cast<C>(columns.window[q].divisor);
    for (int64_t q = 0; q < kLanes<C>; ++q) divisors[columns.windows + q] = 1;
    for (int64_t s = 0; s < columns.taps; ++s) offset[s] = phases.at(s * columns.dilation);
  }
};

template <typename T>
static void forward_rows(const PoolPlan& plan, const T* x, T* y, void* memory, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const PoolAxis &rows = plan.rows, &columns = plan.columns;
  Arena arena(memory);
  AverageRows<C> scratch(plan, arena);
  scratch.start(columns);
  for (int64_t unit = begin; unit < end; ++unit) {
    const PoolWindow& window = rows.window[unit % rows.windows];
    const int64_t count = window.end_tap - window.first_tap;
    const int64_t first = unit / rows.windows * rows.size + window.origin + window.first_tap;
    split_rows(scratch.phases, x + first * columns.size, count, columns.size,
               plan.inputs() - (first + count - 1) * columns.size, C{0}, scratch.sums);
    const Vec<C> row_divisor = broadcast(static_cast<C>(window.divisor));
    for (int64_t q = 0; q < columns.windows; q += kLanes<C>) {
      Vec<C> sum = load(scratch.sums + scratch.offset[0] + q);
      for (int64_t s = 1; s < columns.taps; ++s) sum += load(scratch.sums + scratch.offset[s] + q);
      const int64_t output = unit * columns.windows + q;
      store_first(y + output, sum / (row_divisor * load(scratch.divisors + q)),
                  end * columns.windows - output);
    }
  }
}

// What each window of the row `cover` gives to a pixel under it, Σ over the vertical windows of grad /
// divisor. `row` is where the plane begins in grad; `out` has room for whole vectors.
template <typename T, typename C = compute_t<T>>
CNNEXT_INLINE void window_gradients(const PoolPlan& plan, const PoolCover& cover, const C* divisors,
                                    const T* grad, int64_t plane, C* out) {
  const PoolAxis &rows = plan.rows, &columns = plan.columns;
  for (int64_t q = 0; q < columns.windows; q += kLanes<C>) {
    Vec<C> sum{};
    for (int64_t k = 0; k < cover.count; ++k) {
      const int64_t p = cover.window + k * rows.window_step;
      const int64_t at = plane + p * columns.windows + q;
      const Vec<C> divisor = broadcast(static_cast<C>(rows.window[p].divisor)) * load(divisors + q);
      sum += load_first(grad + at, plan.outputs() - at) / divisor;
    }
    store(out + q, sum);
  }
}

inline bool same_cover(const PoolCover& a, const PoolCover& b) {
  return a.window == b.window && a.count == b.count;
}

template <typename T>
static void backward_rows(const PoolPlan& plan, const T* grad, T* grad_x, void* memory, int64_t begin,
                          int64_t end) {
  using C = compute_t<T>;
  constexpr int64_t L = kLanes<C>;
  const PoolAxis &rows = plan.rows, &columns = plan.columns;
  Arena arena(memory);
  AverageRows<C> scratch(plan, arena);
  scratch.start(columns);
  C* windows = scratch.windows + scratch.margin;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t h = unit % rows.size;
    if (unit == begin || h == 0 || !same_cover(rows.cover[h], rows.cover[h - 1])) {
      const int64_t plane = unit / rows.size * rows.windows * columns.windows;
      window_gradients(plan, rows.cover[h], scratch.divisors, grad, plane, windows);
      for (int64_t q = columns.windows; q < round_up(columns.windows, L); ++q) windows[q] = 0;
      for (int64_t phase = 0; phase < columns.stride; ++phase) {
        const int64_t *k_begin = scratch.taps.begin + phase, *shift = scratch.taps.shift;
        for (int64_t i = 0; i * columns.stride < columns.size + columns.pad; i += L) {
          Vec<C> sum{};
          for (int64_t k = k_begin[0]; k < k_begin[1]; ++k) sum += load(windows + i - shift[k]);
          store(scratch.sums + phase * scratch.phases.length + i, sum);
        }
      }
    }
    merge_row(scratch.phases, scratch.sums, grad_x + unit * columns.size, (end - unit) * columns.size);
  }
}

}  // namespace cnnext::CNNEXT_ISA
