// max_pool2d for NCHW: neighbouring windows of a row in the lanes of a vector (pool2d_phases.h says how).
#pragma once

#include "max_pool2d_kernel.h"
#include "pool2d_phases.h"
#include "simd/narrow.h"

namespace cnnext::CNNEXT_ISA {

template <typename C>
inline constexpr C kLowest = -static_cast<C>(__builtin_inf());

// One step of the search: `code` is the tap that v comes from.
template <typename C>
CNNEXT_INLINE void challenge(Vec<C> v, Mask<C> code, Vec<C>& best, Mask<C>& tap) {
  const Mask<C> wins = (v > best) | (v != v);
  best = select<C>(wins, v, best);
  tap = wins ? code : tap;
}

// The same where neither is NaN, with one comparison. Callers look for NaN among all their values at once.
template <typename C>
CNNEXT_INLINE void challenge_ordered(Vec<C> v, Mask<C> code, Vec<C>& best, Mask<C>& tap) {
  const Mask<C> stays = v <= best;
  best = select<C>(stays, best, v);
  tap = stays ? tap : code;
}

template <typename C>
CNNEXT_INLINE Mask<C> all_lanes(int64_t value) {
  return Mask<C>{} + static_cast<decltype(Mask<C>{}[0] + 0)>(value);
}

// A power of two, so that a row finds its slot without a division.
inline int64_t ring_size(int64_t at_least) {
  int64_t rows = 1;
  while (rows < at_least) rows *= 2;
  return rows;
}

// Forward: the latest input rows, split into phases. The row numbered plane·H + h lies in slot number mod
// ring_rows, and `held` is the number of the row in a slot, −1 at first. Rows are split one row of windows
// ahead of their use: a load that spans two stores has to wait until both have left the store buffer.
template <typename C>
struct ForwardRows {
  Phases phases;
  int64_t ring_rows;
  C* ring;
  int64_t* held;
  int64_t* offset;  // [taps] of a tap within the phases
  Mask<C>*
      first_taps;  // [windows] the first tap inside the input, horizontally: what an all −inf window answers

  ForwardRows(const PoolPlan& plan, Arena& arena) : phases(phases_of<C>(plan.columns)) {
    const int64_t extent = smaller((plan.rows.taps - 1) * plan.rows.dilation + 1, plan.rows.size);
    ring_rows = ring_size(2 * extent + smaller(plan.rows.stride, plan.rows.size));
    ring = arena.take<C>(ring_rows * phases.total());
    held = arena.take<int64_t>(ring_rows);
    offset = arena.take<int64_t>(plan.columns.taps);
    first_taps = arena.take<Mask<C>>(ceil_div<int64_t>(plan.columns.windows, kLanes<C>));
  }

  void start(const PoolAxis& columns) {
    for (int64_t i = 0; i < ring_rows * phases.total(); ++i) ring[i] = kLowest<C>;
    for (int64_t i = 0; i < ring_rows; ++i) held[i] = -1;
    for (int64_t s = 0; s < columns.taps; ++s) offset[s] = phases.at(s * columns.dilation);
    for (int64_t q = 0; q < columns.windows; ++q)
      first_taps[q / kLanes<C>][q % kLanes<C>] = columns.window[q].first_tap;
  }

  C* slot(int64_t number) const { return ring + (number & (ring_rows - 1)) * phases.total(); }

  // The rows under a row of windows; `first` is the number of the plane's first row.
  template <typename T>
  void prepare(const PoolPlan& plan, const PoolWindow& window, int64_t first, const T* x) const {
    for (int64_t r = window.first_tap; r < window.end_tap; ++r) {
      const int64_t number = first + window.origin + r * plan.rows.dilation;
      if (held[number & (ring_rows - 1)] == number) continue;
      held[number & (ring_rows - 1)] = number;
      const int64_t at = number * plan.columns.size;
      split_rows(phases, x + at, 1, 0, plan.inputs() - at, kLowest<C>, slot(number));
    }
  }
};

// One vector of windows; `first` is the number of the plane's first row.
template <typename C>
CNNEXT_INLINE void search_windows(const ForwardRows<C>& scratch, const PoolPlan& plan, const PoolWindow& rows,
                                  int64_t first, int64_t q, Vec<C>& best, Mask<C>& tap) {
  const int64_t taps = plan.columns.taps;
  best = broadcast(kLowest<C>);
  Mask<C> code = all_lanes<C>(rows.first_tap * taps);
  tap = scratch.first_taps[q / kLanes<C>] + code;
  for (int64_t r = rows.first_tap; r < rows.end_tap; ++r) {
    const C* x = scratch.slot(first + rows.origin + r * plan.rows.dilation) + q;
    for (int64_t s = 0; s < taps; ++s) {
      challenge<C>(load(x + scratch.offset[s]), code, best, tap);
      code += 1;
    }
  }
}

template <typename T, typename Tap>
static void forward_rows_of(const PoolPlan& plan, const T* x, T* y, Tap* tap, void* memory, int64_t begin,
                            int64_t end) {
  using C = compute_t<T>;
  const PoolAxis &rows = plan.rows, &columns = plan.columns;
  Arena arena(memory);
  ForwardRows<C> scratch(plan, arena);
  scratch.start(columns);
  int64_t p = begin % rows.windows, first = begin / rows.windows * rows.size;
  scratch.prepare(plan, rows.window[p], first, x);
  for (int64_t unit = begin; unit < end; ++unit) {
    const bool last = p + 1 == rows.windows;
    const int64_t next_p = last ? 0 : p + 1, next_first = last ? first + rows.size : first;
    if (unit + 1 < end) scratch.prepare(plan, rows.window[next_p], next_first, x);
    for (int64_t q = 0; q < columns.windows; q += kLanes<C>) {
      const int64_t output = unit * columns.windows + q, writable = end * columns.windows - output;
      Vec<C> best;
      Mask<C> winner;
      search_windows<C>(scratch, plan, rows.window[p], first, q, best, winner);
      store_first(y + output, best, writable);
      store_narrow_first<C>(tap + output, winner, writable);
    }
    p = next_p, first = next_first;
  }
}

// Backward: the latest rows of grad and tap, with zeros on both sides, so that a horizontal tap is a shift.
// Numbered and filled ahead like ForwardRows; the row plane·P + p.
template <typename C>
struct BackwardRows {
  static constexpr int64_t L = kLanes<C>;
  Phases phases;
  int64_t ring_rows, margin, length;  // margin, length: of a row, in whole vectors
  C* grad_ring;
  Mask<C>* tap_ring;
  int64_t* held;
  C* sums;  // the phases of a row of grad_x
  TapsByPhase taps;

  BackwardRows(const PoolPlan& plan, Arena& arena)
      : phases(phases_of<C>(plan.columns)), taps(plan.columns, arena) {
    const PoolAxis &rows = plan.rows, &columns = plan.columns;
    const int64_t covers = ceil_div((rows.taps - 1) * rows.dilation + 1, rows.stride);
    ring_rows = ring_size(2 * smaller(covers, rows.windows) + 1);
    margin = round_up(taps.margin, L);
    length = margin + round_up(larger(columns.windows, phases.length), L) + L;
    grad_ring = arena.take<C>(ring_rows * length);
    tap_ring = arena.take<Mask<C>>(ring_rows * length / L);
    held = arena.take<int64_t>(ring_rows);
    sums = arena.take<C>(phases.total());
  }

  void start(const PoolAxis& columns) {
    for (int64_t i = 0; i < ring_rows * length; ++i) grad_ring[i] = 0;
    for (int64_t i = 0; i < ring_rows * length / L; ++i) tap_ring[i] = Mask<C>{};
    for (int64_t i = 0; i < ring_rows; ++i) held[i] = -1;
    for (int64_t i = 0; i < phases.total(); ++i) sums[i] = 0;
    taps.start(columns);
  }

  int64_t slot(int64_t number) const { return (number & (ring_rows - 1)) * length + margin; }

  // The rows of windows over a row of pixels; `first` is the number of the plane's first row of windows.
  template <typename T, typename Tap>
  void prepare(const PoolPlan& plan, const PoolCover& cover, int64_t first, const T* grad,
               const Tap* tap) const {
    const int64_t windows = plan.columns.windows;
    for (int64_t k = 0; k < cover.count; ++k) {
      const int64_t number = first + cover.window + k * plan.rows.window_step;
      if (held[number & (ring_rows - 1)] == number) continue;
      held[number & (ring_rows - 1)] = number;
      const int64_t at = number * windows, readable = plan.outputs() - at, to = slot(number);
      for (int64_t q = 0; q < windows; q += L) {
        store(grad_ring + to + q, load_first(grad + at + q, readable - q));
        tap_ring[(to + q) / L] = load_narrow_first<C>(tap + at + q, readable - q);
      }
      for (int64_t q = windows; q < round_up(windows, L); ++q) grad_ring[to + q] = 0;
    }
  }

  // What a vector of windows from `at` on gives to the pixels that are tap `code` of them.
  CNNEXT_INLINE Vec<C> gradient(int64_t at, Mask<C> code) const {
    Mask<C> tap;
    std::memcpy(&tap, reinterpret_cast<const char*>(tap_ring) + at * static_cast<int64_t>(sizeof(C)),
                sizeof tap);
    return select<C>(tap == code, load(grad_ring + at), Vec<C>{});
  }
};

// A row of grad_x, for any stride, by way of its phases.
template <typename T, typename C>
CNNEXT_INLINE void gather_row(const BackwardRows<C>& scratch, const PoolPlan& plan, const PoolCover& cover,
                              int64_t first, T* row, int64_t writable) {
  const PoolAxis &rows = plan.rows, &columns = plan.columns;
  for (int64_t phase = 0; phase < columns.stride; ++phase) {
    for (int64_t i = 0; i * columns.stride < columns.size + columns.pad; i += kLanes<C>) {
      Vec<C> sum{};
      for (int64_t k = 0; k < cover.count; ++k) {
        const int64_t slot = scratch.slot(first + cover.window + k * rows.window_step);
        const int64_t code = (cover.tap - k * rows.tap_step) * columns.taps;
        for (int64_t t = scratch.taps.begin[phase]; t < scratch.taps.begin[phase + 1]; ++t) {
          sum += scratch.gradient(slot + i - scratch.taps.shift[t], all_lanes<C>(code + scratch.taps.tap[t]));
        }
      }
      store(scratch.sums + phase * scratch.phases.length + i, sum);
    }
  }
  merge_row(scratch.phases, scratch.sums, row, writable);
}

template <typename T, typename Tap>
static void backward_rows_of(const PoolPlan& plan, const T* grad, const Tap* tap, T* grad_x, void* memory,
                             int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const PoolAxis &rows = plan.rows, &columns = plan.columns;
  Arena arena(memory);
  BackwardRows<C> scratch(plan, arena);
  scratch.start(columns);
  int64_t h = begin % rows.size, first = begin / rows.size * rows.windows;
  scratch.prepare(plan, rows.cover[h], first, grad, tap);
  for (int64_t unit = begin; unit < end; ++unit) {
    const bool last = h + 1 == rows.size;
    const int64_t next_h = last ? 0 : h + 1, next_first = last ? first + rows.windows : first;
    if (unit + 1 < end) scratch.prepare(plan, rows.cover[next_h], next_first, grad, tap);
    const int64_t writable = (end - unit) * columns.size;
    gather_row(scratch, plan, rows.cover[h], first, grad_x + unit * columns.size, writable);
    h = next_h, first = next_first;
  }
}

}  // namespace cnnext::CNNEXT_ISA
