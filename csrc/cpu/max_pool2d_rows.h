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

template <typename C>
CNNEXT_INLINE Mask<C> all_lanes(int64_t value) {
  return Mask<C>{} + static_cast<decltype(Mask<C>{}[0] + 0)>(value);
}

// Forward: the last `ring_rows` input rows, split into phases; slot h % ring_rows holds row `held`, −1 at first.
template <typename C>
struct ForwardRows {
  Phases phases;
  int64_t ring_rows;
  C* ring;
  int64_t* held;
  int64_t* offset;      // [taps] of a tap within the phases
  const C** row;        // [taps] the row each vertical tap reads
  Mask<C>* first_taps;  // [windows] the first tap inside the input, horizontally: what an all −inf window answers

  ForwardRows(const PoolPlan& plan, Arena& arena) : phases(phases_of<C>(plan.columns)) {
    ring_rows = smaller((plan.rows.taps - 1) * plan.rows.dilation + 1, plan.rows.size);
    ring = arena.take<C>(ring_rows * phases.total());
    held = arena.take<int64_t>(ring_rows);
    offset = arena.take<int64_t>(plan.columns.taps);
    row = arena.take<const C*>(smaller(plan.rows.taps, plan.rows.size));
    first_taps = arena.take<Mask<C>>(ceil_div<int64_t>(plan.columns.windows, kLanes<C>));
  }

  void start(const PoolAxis& columns) {
    for (int64_t i = 0; i < ring_rows * phases.total(); ++i) ring[i] = kLowest<C>;
    for (int64_t i = 0; i < ring_rows; ++i) held[i] = -1;
    for (int64_t s = 0; s < columns.taps; ++s) offset[s] = phases.at(s * columns.dilation);
    for (int64_t q = 0; q < columns.windows; ++q) first_taps[q / kLanes<C>][q % kLanes<C>] = columns.window[q].first_tap;
  }
};

// One vector of windows. kTaps is the number of horizontal taps where the compiler is to know it, else 0.
template <typename C, int kTaps>
CNNEXT_INLINE void search_window(const ForwardRows<C>& scratch, const PoolWindow& rows, int64_t taps, int64_t q,
                                 Vec<C>& best, Mask<C>& tap) {
  if constexpr (kTaps > 0) taps = kTaps;
  best = broadcast(kLowest<C>);
  Mask<C> code = all_lanes<C>(rows.first_tap * taps);
  tap = scratch.first_taps[q / kLanes<C>] + code;
  for (int64_t r = 0; r < rows.end_tap - rows.first_tap; ++r) {
    const C* x = scratch.row[r] + q;
    for (int64_t s = 0; s < taps; ++s) {
      challenge<C>(load(x + scratch.offset[s]), code, best, tap);
      code += 1;
    }
  }
}

template <typename T, typename Tap, int kTaps>
static void forward_rows_of(const PoolPlan& plan, const T* x, T* y, Tap* tap, void* memory, int64_t begin,
                            int64_t end) {
  using C = compute_t<T>;
  const PoolAxis &rows = plan.rows, &columns = plan.columns;
  Arena arena(memory);
  ForwardRows<C> scratch(plan, arena);
  scratch.start(columns);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t plane = unit / rows.windows;
    const PoolWindow& window = rows.window[unit % rows.windows];
    for (int64_t r = window.first_tap; r < window.end_tap; ++r) {
      const int64_t h = window.origin + r * rows.dilation, key = plane * rows.size + h;
      C* split = scratch.ring + h % scratch.ring_rows * scratch.phases.total();
      if (scratch.held[h % scratch.ring_rows] != key) {
        scratch.held[h % scratch.ring_rows] = key;
        split_rows(scratch.phases, x + key * columns.size, 1, 0, plan.inputs() - key * columns.size, kLowest<C>,
                   split);
      }
      scratch.row[r - window.first_tap] = split;
    }
    for (int64_t q = 0; q < columns.windows; q += kLanes<C>) {
      const int64_t output = unit * columns.windows + q, writable = end * columns.windows - output;
      Vec<C> best;
      Mask<C> winner;
      search_window<C, kTaps>(scratch, window, columns.taps, q, best, winner);
      store_first(y + output, best, writable);
      store_narrow_first<C>(tap + output, winner, writable);
    }
  }
}

// Backward: the last `ring_rows` rows of grad and tap with zeros on both sides, so that horizontal tap s is a shift to
// the left; and the taps sorted by the phase they lie in.
template <typename C>
struct BackwardRows {
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
    ring_rows = smaller(ceil_div((rows.taps - 1) * rows.dilation + 1, rows.stride), rows.windows);
    margin = round_up<int64_t>(taps.margin, kLanes<C>);
    length = margin + round_up(larger(columns.windows, phases.length), int64_t{kLanes<C>}) + kLanes<C>;
    grad_ring = arena.take<C>(ring_rows * length);
    tap_ring = arena.take<Mask<C>>(ring_rows * length / kLanes<C>);
    held = arena.take<int64_t>(ring_rows);
    sums = arena.take<C>(phases.total());
  }

  void start(const PoolAxis& columns) {
    for (int64_t i = 0; i < ring_rows * length; ++i) grad_ring[i] = 0;
    for (int64_t i = 0; i < ring_rows * length / kLanes<C>; ++i) tap_ring[i] = Mask<C>{};
    for (int64_t i = 0; i < ring_rows; ++i) held[i] = -1;
    for (int64_t i = 0; i < phases.total(); ++i) sums[i] = 0;
    taps.start(columns);
  }

  int64_t slot(int64_t p) const { return p % ring_rows * length + margin; }
};

template <typename T, typename Tap, typename C = compute_t<T>>
CNNEXT_INLINE void open_row(const BackwardRows<C>& scratch, int64_t windows, const T* grad, const Tap* tap,
                            int64_t readable, int64_t slot) {
  constexpr int64_t L = kLanes<C>;
  C* g = scratch.grad_ring + slot;
  for (int64_t q = 0; q < windows; q += L) {
    store(g + q, load_first(grad + q, readable - q));
    scratch.tap_ring[(slot + q) / L] = load_narrow_first<C>(tap + q, readable - q);
  }
  for (int64_t q = windows; q < round_up(windows, L); ++q) g[q] = 0;
}

// What the windows (p, ·) of tap row r give to one phase of an input row. `first` is where tap row r begins.
template <typename C>
CNNEXT_INLINE Vec<C> gather_phase(const BackwardRows<C>& scratch, int64_t slot, int64_t first, int64_t phase,
                                  int64_t i, Vec<C> sum) {
  const char* taps = reinterpret_cast<const char*>(scratch.tap_ring);
  for (int64_t k = scratch.taps.begin[phase]; k < scratch.taps.begin[phase + 1]; ++k) {
    const int64_t at = slot + i - scratch.taps.shift[k];
    Mask<C> tap;
    std::memcpy(&tap, taps + at * static_cast<int64_t>(sizeof(C)), sizeof tap);
    sum += select<C>(tap == all_lanes<C>(first + scratch.taps.tap[k]), load(scratch.grad_ring + at), Vec<C>{});
  }
  return sum;
}

template <typename T, typename Tap>
static void backward_rows_of(const PoolPlan& plan, const T* grad, const Tap* tap, T* grad_x, void* memory,
                             int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const PoolAxis &rows = plan.rows, &columns = plan.columns;
  Arena arena(memory);
  BackwardRows<C> scratch(plan, arena);
  scratch.start(columns);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t plane = unit / rows.size;
    const PoolCover& cover = rows.cover[unit % rows.size];
    for (int64_t k = 0; k < cover.count; ++k) {
      const int64_t p = cover.window + k * rows.window_step, key = plane * rows.windows + p;
      if (scratch.held[p % scratch.ring_rows] == key) continue;
      scratch.held[p % scratch.ring_rows] = key;
      const int64_t output = key * columns.windows;
      open_row(scratch, columns.windows, grad + output, tap + output, plan.outputs() - output, scratch.slot(p));
    }
    for (int64_t phase = 0; phase < columns.stride; ++phase) {
      for (int64_t i = 0; i * columns.stride < columns.size + columns.pad; i += kLanes<C>) {
        Vec<C> sum{};
        for (int64_t k = 0; k < cover.count; ++k) {
          const int64_t p = cover.window + k * rows.window_step, r = cover.tap - k * rows.tap_step;
          sum = gather_phase(scratch, scratch.slot(p), r * columns.taps, phase, i, sum);
        }
        store(scratch.sums + phase * scratch.phases.length + i, sum);
      }
    }
    merge_row(scratch.phases, scratch.sums, grad_x + unit * columns.size, (end - unit) * columns.size);
  }
}

}  // namespace cnnext::CNNEXT_ISA
