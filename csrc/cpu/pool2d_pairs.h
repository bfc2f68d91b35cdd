// NCHW pools with 2×2 windows, stride 2, no padding and no incomplete window: nearly every pool of the
// classic networks.
//
// The two rows of a row of windows are read once, straight into registers, and no scratch is needed. On small
// maps the cost of a row is what counts, not that of a vector. Loads and stores run over the end of a row
// where memory allows it: what they touch there is the next row, which comes later.
#pragma once

#include "pool2d_axis.h"
#include "simd/shuffle.h"

namespace cnnext::CNNEXT_ISA {

// Where a vector of windows goes: to `at` if that is all, and if it holds two short rows, the second from
// lane kLanes / 2 on, that one to `at + second`. `writable` counts from `at`.
struct PairOutput {
  int64_t at, writable, second;
};

template <typename T, typename C = compute_t<T>>
CNNEXT_INLINE void store_pair(T* p, Vec<C> v, const PairOutput& output) {
  store_first(p + output.at, v, output.writable);
  if (output.second == 0) return;
  store_first(p + output.at + output.second, shuffle<C, UpperHalf>(v, v), output.writable - output.second);
}

// combine(a0, a1, b0, b1, output) for each vector of windows: a0, a1 are the pixels of the upper row,
// 2·kLanes of them, b0, b1 those below. Where two rows of windows fit into one vector, a0 and a1 are the
// upper rows of two neighbours.
template <typename T, typename Combine>
CNNEXT_INLINE void for_pair_windows(const PoolPlan& plan, const T* x, int64_t begin, int64_t end,
                                    const Combine& combine) {
  using C = compute_t<T>;
  constexpr int64_t L = kLanes<C>;
  const int64_t width = plan.columns.size, windows = plan.columns.windows, inputs = plan.inputs();
  const auto pixels = [&](int64_t at) { return load_up_to(x + at, inputs - at); };
  int64_t plane = begin / plan.rows.windows, p = begin % plan.rows.windows;
  const auto next_row = [&]() {  // the first pixel of the next row of windows
    const int64_t row = (plane * plan.rows.size + 2 * p) * width;
    if (++p == plan.rows.windows) p = 0, ++plane;
    return row;
  };
  int64_t unit = begin;
  if (2 * windows <= L) {
    for (; unit + 2 <= end; unit += 2) {
      const int64_t first = next_row(), second = next_row(), writable = (end - unit) * windows;
      const T *upper = x + first, *lower = upper + width, *next_upper = x + second,
              *next_lower = next_upper + width;
      if (second + width + L <= inputs &&
          writable >= windows + L) {  // whole vectors, without a branch for each
        combine(load(upper), load(next_upper), load(lower), load(next_lower),
                PairOutput{unit * windows, 2 * L, windows});
      } else {
        combine(pixels(first), pixels(second), pixels(first + width), pixels(second + width),
                PairOutput{unit * windows, writable, windows});
      }
    }
  }
  for (; unit < end; ++unit) {
    const int64_t row = next_row();
    for (int64_t q = 0; q < windows; q += L) {
      const int64_t a = row + 2 * q, b = a + width;
      const Vec<C> a0 = pixels(a), b0 = pixels(b);
      const bool more = q + L / 2 < windows;
      combine(a0, more ? pixels(a + L) : a0, b0, more ? pixels(b + L) : b0,
              PairOutput{unit * windows + q, (end - unit) * windows - q, 0});
    }
  }
}

template <typename C>
struct PairGradients {
  Vec<C> upper_even, upper_odd, lower_even, lower_odd;
};

// Writes grad_x from spread(output), the gradients of the four pixels under a vector of windows. [begin, end)
// are rows of windows; the last one of a plane takes the odd row of pixels under no window with it.
template <typename T, typename Spread, typename C = compute_t<T>>
CNNEXT_INLINE void for_pair_pixels(const PoolPlan& plan, T* grad_x, int64_t begin, int64_t end,
                                   const Spread& spread) {
  constexpr int64_t L = kLanes<C>;
  const int64_t width = plan.columns.size, windows = plan.columns.windows, height = plan.rows.size;
  if (windows <= L / 2 && 2 * windows == width && 2 * plan.rows.windows == height) {
    // Nothing but short rows, one after the other: whole vectors as long as their ends are overwritten later.
    for (; (end - begin) * 2 * width >= width + L; ++begin) {
      const PairGradients<C> g = spread(begin * windows);
      T* const upper = grad_x + begin * 2 * width;
      store(upper, shuffle<C, InterleaveLow>(g.upper_even, g.upper_odd));
      store(upper + width, shuffle<C, InterleaveLow>(g.lower_even, g.lower_odd));
    }
  }
  int64_t plane = begin / plan.rows.windows, p = begin % plan.rows.windows;
  const int64_t end_p = end % plan.rows.windows;
  const int64_t limit = (end / plan.rows.windows * height + 2 * end_p) * width;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t upper = (plane * height + 2 * p) * width, lower = upper + width;
    for (int64_t q = 0; q < windows; q += L) {
      const PairGradients<C> g = spread(unit * windows + q);
      const auto put = [&](int64_t at, int64_t writable, Vec<C> even, Vec<C> odd) {
        store_first(grad_x + at, shuffle<C, InterleaveLow>(even, odd), writable);
        if (q + L / 2 < windows) {
          store_first(grad_x + at + L, shuffle<C, InterleaveHigh>(even, odd), writable - L);
        }
      };
      // The end of the upper row must not run into a part of the lower one that is already there.
      put(upper + 2 * q, windows <= L ? limit - upper : 2 * (windows - q), g.upper_even, g.upper_odd);
      put(lower + 2 * q, limit - lower - 2 * q, g.lower_even, g.lower_odd);
    }
    for (int64_t w = 2 * windows; w < width; ++w) grad_x[upper + w] = grad_x[lower + w] = T{};
    if (++p < plan.rows.windows) continue;
    for (int64_t i = lower + width; i < (plane + 1) * height * width; ++i) grad_x[i] = T{};
    p = 0, ++plane;
  }
}

}  // namespace cnnext::CNNEXT_ISA
