// max_pool2d for NCHW with 3×3 windows, stride 2, padding 1 and an even width: the first pool of the residual
// networks.
//
// Window q looks at the pixels 2q − 1, 2q, 2q + 1: an odd one that it shares with the window before, an even
// one and an odd one. So a row is loaded once, parted into even and odd pixels, and the shared ones move over
// by a lane, all in registers. Backward likewise, with neighbouring windows of a pixel in neighbouring lanes.
#pragma once

#include "max_pool2d_rows.h"

namespace cnnext::CNNEXT_ISA {

// The lanes of b moved up by one, with the last one of a before them.
template <int lanes>
struct PreviousLanes {
  static constexpr int at(int i) { return lanes - 1 + i; }
};
// The lanes of a moved down by one, with the first one of b behind them.
template <int lanes>
struct NextLanes {
  static constexpr int at(int i) { return i + 1; }
};

// The best of the taps left, even and odd of kRows rows, whose codes rise by three from row to row.
// `left_code` is that of the first left tap, `code` that which it would have if no window began at the edge.
template <typename C, int kRows, typename Challenge>
CNNEXT_INLINE void search_3x3(const Vec<C> (&left)[kRows], const Vec<C> (&even)[kRows],
                              const Vec<C> (&odd)[kRows], Mask<C> left_code, Mask<C> code, Vec<C>& best,
                              Mask<C>& winner, const Challenge& meet) {
  for (int r = 0; r < kRows; ++r, code += 3, left_code += 3) {
    Vec<C> row_best = left[r];
    Mask<C> row_winner = left_code;
    meet(even[r], code + 1, row_best, row_winner);
    meet(odd[r], code + 2, row_best, row_winner);
    if (r == 0) best = row_best, winner = row_winner;
    if (r > 0) meet(row_best, row_winner, best, winner);
  }
}

// A row of windows, over kRows rows of pixels from x[first] on, the first of which is vertical tap
// `first_tap`.
template <int kRows, typename T>
CNNEXT_INLINE void forward_3x3_row(const PoolPlan& plan, const T* x, int64_t first, int64_t first_tap, T* y,
                                   uint8_t* tap, int64_t writable) {
  using C = compute_t<T>;
  constexpr int64_t L = kLanes<C>;
  const int64_t inputs = plan.inputs();
  const Mask<C> code = all_lanes<C>(3 * first_tap);
  Vec<C> left[kRows], even[kRows], odd[kRows];
  for (int r = 0; r < kRows; ++r) odd[r] = broadcast(kLowest<C>);
  for (int64_t q = 0; q < plan.columns.windows; q += L) {
    Vec<C> total{}, best;
    Mask<C> winner;
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = first + r * plan.columns.size + 2 * q;
      const Vec<C> low = load_up_to(x + at, inputs - at), high = load_up_to(x + at + L, inputs - at - L);
      const Vec<C> odd_before = odd[r];
      even[r] = shuffle<C, EvenLanes>(low, high);
      odd[r] = shuffle<C, OddLanes>(low, high);
      left[r] = shuffle<C, PreviousLanes>(odd_before, odd[r]);
      total += (low + high) + left[r];
    }
    // Window 0 has no left tap: its first one is the middle.
    const Mask<C> left_code = q == 0 ? code - first_lanes<C>(1) : code;
    if (has_nan<C>(total)) {
      search_3x3<C, kRows>(left, even, odd, left_code, code, best, winner, challenge<C>);
    } else {
      search_3x3<C, kRows>(left, even, odd, left_code, code, best, winner, challenge_ordered<C>);
    }
    store_first(y + q, best, writable - q);
    store_narrow_first<C>(tap + q, winner, writable - q);
  }
}

template <typename T>
static void forward_3x3(const PoolPlan& plan, bool, const T* x, T* y, void* tap, void*, int64_t begin,
                        int64_t end) {
  const PoolAxis& rows = plan.rows;
  const int64_t windows = plan.columns.windows;
  int64_t plane = begin / rows.windows, p = begin % rows.windows;
  for (int64_t unit = begin; unit < end; ++unit) {
    const PoolWindow& window = rows.window[p];
    const int64_t count = window.end_tap - window.first_tap, t = window.first_tap;
    const int64_t first = (plane * rows.size + window.origin + t) * plan.columns.size;
    T* out = y + unit * windows;
    uint8_t* taps = static_cast<uint8_t*>(tap) + unit * windows;
    const int64_t writable = (end - unit) * windows;
    if (count == 3) forward_3x3_row<3>(plan, x, first, t, out, taps, writable);
    if (count == 2) forward_3x3_row<2>(plan, x, first, t, out, taps, writable);
    if (count == 1) forward_3x3_row<1>(plan, x, first, t, out, taps, writable);
    if (++p == rows.windows) p = 0, ++plane;
  }
}

// Pixel 2m is the middle tap of window m; 2m + 1 is the right tap of window m and the left one of window m
// + 1.
template <typename T>
static void backward_3x3(const PoolPlan& plan, bool, const T* grad, const void* tap, T* grad_x, void*,
                         int64_t begin, int64_t end) {
  using C = compute_t<T>;
  constexpr int64_t L = kLanes<C>;
  const PoolAxis& rows = plan.rows;
  const int64_t windows = plan.columns.windows, width = plan.columns.size, outputs = plan.outputs();
  const auto* taps = static_cast<const uint8_t*>(tap);
  int64_t plane = begin / rows.size, h = begin % rows.size;
  for (int64_t unit = begin; unit < end; ++unit) {
    const PoolCover& cover = rows.cover[h];
    const int64_t first = (plane * rows.windows + cover.window) * windows;
    for (int64_t m = 0; m < windows; m += L) {
      Vec<C> even{}, odd{};
      const bool more = m + L < windows;
      const Mask<C> inside = first_lanes<C>(windows - m);
      for (int64_t k = 0; k < cover.count; ++k) {
        const int64_t at = first + k * windows + m;
        const Vec<C> g = select<C>(inside, load_first(grad + at, outputs - at), Vec<C>{});
        const Mask<C> won = load_narrow_first<C>(taps + at, outputs - at);
        const Vec<C> g_after = more ? load_first(grad + at + L, outputs - at - L) : Vec<C>{};
        const Mask<C> won_after = more ? load_narrow_first<C>(taps + at + L, outputs - at - L) : Mask<C>{};
        const Mask<C> left = all_lanes<C>(3 * (cover.tap - k * rows.tap_step));
        even += select<C>(won == left + 1, g, Vec<C>{});
        odd += select<C>(won == left + 2, g, Vec<C>{});
        const Vec<C> g_left = select<C>(won == left, g, Vec<C>{});
        const Vec<C> g_left_after = select<C>(won_after == left, g_after, Vec<C>{});
        odd += shuffle<C, NextLanes>(g_left, g_left_after);
      }
      T* row = grad_x + unit * width + 2 * m;
      const int64_t writable = (end - unit) * width - 2 * m;
      store_first(row, shuffle<C, InterleaveLow>(even, odd), writable);
      if (m + L / 2 < windows) store_first(row + L, shuffle<C, InterleaveHigh>(even, odd), writable - L);
    }
    if (++h == rows.size) h = 0, ++plane;
  }
}

}  // namespace cnnext::CNNEXT_ISA
