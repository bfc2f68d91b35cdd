// Average pools, uniform and adaptive.   y[n,c,p,q] = Σ over the pixels of window (p,q) of x[n,c,h,w] /
// divisor(p,q)
//
// Sums are of compute precision (float for 16-bit storage) and divided once. Backward gathers: each pixel
// adds up grad / divisor of the windows over it, so no two threads write one place and the bits do not depend
// on their number.
#include "avg_pool2d_kernel.h"

#include "avg_pool2d_rows.h"
#include "avg_pool2d_wide.h"
#include "pool2d_channels.h"
#include "pool2d_pairs.h"

namespace cnnext::CNNEXT_ISA {

// Division by one number. A division costs as much as 16 multiplications; the reciprocal of a power of two is
// exact.
template <typename C>
class Divisor {
 public:
  explicit Divisor(int64_t value)
      : exact_(value > 0 && (value & (value - 1)) == 0),
        factor_(broadcast(exact_ ? C{1} / static_cast<C>(value) : static_cast<C>(value))) {}

  CNNEXT_INLINE Vec<C> operator()(Vec<C> v) const { return exact_ ? v * factor_ : v / factor_; }

 private:
  bool exact_;
  Vec<C> factor_;
};

// ---- NCHW, unevenly spaced windows: the rows of a window are added in vectors, its columns one by one
// ----------------

template <typename C>
struct UnevenScratch {
  C* row;  // [size] forward: the sum of a window's rows; [windows] backward: gradients of a row of windows
  C* divisors;  // [windows]

  UnevenScratch(const PoolPlan& plan, Arena& arena)
      : row(arena.take<C>(larger(plan.columns.size, plan.columns.windows) + kLanes<C>)),
        divisors(arena.take<C>(plan.columns.windows + kLanes<C>)) {}

  void start(const PoolAxis& columns) {
    for (int64_t q = 0; q < columns.windows; ++q) divisors[q] = static_cast<C>(columns.window[q].divisor);
    for (int64_t q = 0; q < kLanes<C>; ++q) divisors[columns.windows + q] = 1;
  }
};

template <typename T>
static void forward_uneven(const PoolPlan& plan, const T* x, T* y, void* memory, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const PoolAxis &rows = plan.rows, &columns = plan.columns;
  Arena arena(memory);
  C* sums = UnevenScratch<C>(plan, arena).row;
  for (int64_t unit = begin; unit < end; ++unit) {
    const PoolWindow& window = rows.window[unit % rows.windows];
    const int64_t count = window.end_tap - window.first_tap;
    const int64_t first = (unit / rows.windows * rows.size + window.origin + window.first_tap) * columns.size;
    const int64_t readable = plan.inputs() - first - (count - 1) * columns.size;
    for (int64_t w = 0; w < columns.size; w += kLanes<C>) {
      store(sums + w, sum_rows(x + first + w, count, columns.size, readable - w));
    }
    for (int64_t q = 0; q < columns.windows; ++q) {
      const PoolWindow& column = columns.window[q];
      C sum = 0;
      for (int64_t s = column.first_tap; s < column.end_tap; ++s) sum += sums[column.origin + s];
      y[unit * columns.windows + q] = from_compute<T>(sum / static_cast<C>(window.divisor * column.divisor));
    }
  }
}

template <typename T>
static void backward_uneven(const PoolPlan& plan, const T* grad, T* grad_x, void* memory, int64_t begin,
                            int64_t end) {
  using C = compute_t<T>;
  const PoolAxis &rows = plan.rows, &columns = plan.columns;
  Arena arena(memory);
  UnevenScratch<C> scratch(plan, arena);
  scratch.start(columns);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t h = unit % rows.size;
    if (unit == begin || h == 0 || !same_cover(rows.cover[h], rows.cover[h - 1])) {
      const int64_t plane = unit / rows.size * rows.windows * columns.windows;
      window_gradients(plan, rows.cover[h], scratch.divisors, grad, plane, scratch.row);
    }
    for (int64_t w = 0; w < columns.size; ++w) {
      const PoolCover& column = columns.cover[w];
      C sum = 0;
      for (int64_t k = 0; k < column.count; ++k) sum += scratch.row[column.window + k * columns.window_step];
      grad_x[unit * columns.size + w] = from_compute<T>(sum);
    }
  }
}

// ---- NCHW, 2×2
// ----------------------------------------------------------------------------------------------

template <typename T>
static void forward_pairs(const PoolPlan& plan, const T* x, T* y, void*, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const Divisor<C> divided(plan.rows.window[0].divisor * plan.columns.window[0].divisor);
  for_pair_windows(plan, x, begin, end,
                   [&](Vec<C> a0, Vec<C> a1, Vec<C> b0, Vec<C> b1, const PairOutput& output) {
                     const Vec<C> low = a0 + b0, high = a1 + b1;
                     const Vec<C> sum = shuffle<C, EvenLanes>(low, high) + shuffle<C, OddLanes>(low, high);
                     store_pair(y, divided(sum), output);
                   });
}

template <typename T>
static void backward_pairs(const PoolPlan& plan, const T* grad, T* grad_x, void*, int64_t begin,
                           int64_t end) {
  using C = compute_t<T>;
  const Divisor<C> divided(plan.rows.window[0].divisor * plan.columns.window[0].divisor);
  const int64_t outputs = plan.outputs();
  for_pair_pixels(plan, grad_x, begin, end, [&](int64_t output) {
    const Vec<C> g = divided(load_first(grad + output, outputs - output));
    return PairGradients<C>{g, g, g, g};
  });
}

// ---- NHWC
// -----------------------------------------------------------------------------------------------------------

// A sum in three levels of kGroup terms, so that a value takes part in few additions: the error of a global
// average grows with their number.
template <typename C, int kVectors>
class GroupedSum {
 public:
  CNNEXT_INLINE void add(int i, Vec<C> v) { levels_[0][i] += v; }

  // After each term.
  CNNEXT_INLINE void next_term() {
    ++terms_;
    if (terms_ % kGroup == 0) carry(0);
    if (terms_ % (kGroup * kGroup) == 0) carry(1);
  }

  CNNEXT_INLINE Vec<C> total(int i) const { return levels_[2][i] + (levels_[1][i] + levels_[0][i]); }

 private:
  static constexpr int64_t kGroup = 16;

  CNNEXT_INLINE void carry(int level) {
    for (int i = 0; i < kVectors; ++i) {
      levels_[level + 1][i] += levels_[level][i];
      levels_[level][i] = Vec<C>{};
    }
  }

  int64_t terms_ = 0;
  Vec<C> levels_[3][kVectors] = {};
};

template <typename T, int kVectors, typename C = compute_t<T>>
CNNEXT_INLINE void average_pixel(const PoolPlan& plan, const PoolWindow& row, const PoolWindow& column,
                                 const T* x, int64_t readable, T* y, int64_t writable) {
  GroupedSum<C, kVectors> sum;
  const int64_t line = plan.columns.size * plan.channels, taps = column.end_tap - column.first_tap;
  int64_t left = (row.origin + row.first_tap) * line + (column.origin + column.first_tap) * plan.channels;
  for (int64_t r = row.first_tap; r < row.end_tap; ++r, left += line) {
    for (int64_t s = 0, at = left; s < taps; ++s, at += plan.channels) {
      for (int i = 0; i < kVectors; ++i) {
        sum.add(i, kVectors > 1 ? load(x + at + i * kLanes<C>) : load_first(x + at, readable - at));
      }
      sum.next_term();
    }
  }
  const Divisor<C> divided(row.divisor * column.divisor);
  for (int i = 0; i < kVectors; ++i) {
    store_first(y + i * kLanes<C>, divided(sum.total(i)), writable - i * kLanes<C>);
  }
}

template <typename T>
static void forward_channels(const PoolPlan& plan, const T* x, T* y, void*, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const PoolAxis &rows = plan.rows, &columns = plan.columns;
  const int64_t row_outputs = columns.windows * plan.channels;
  for (int64_t unit = begin; unit < end; ++unit) {
    const PoolWindow& row = rows.window[unit % rows.windows];
    const int64_t plane = unit / rows.windows * rows.size * columns.size * plan.channels;
    for (int64_t q = 0; q < columns.windows; ++q) {
      for_channels<C>(plan.channels, [&](auto vectors, int64_t c) {
        const int64_t output = unit * row_outputs + q * plan.channels + c;
        average_pixel<T, vectors.count>(plan, row, columns.window[q], x + plane + c,
                                        plan.inputs() - plane - c, y + output, end * row_outputs - output);
      });
    }
  }
}

// One vector of channels of a pixel of grad_x; `grad` is the plane's.
template <typename T, typename C = compute_t<T>>
CNNEXT_INLINE Vec<C> pixel_gradient(const PoolPlan& plan, const PoolCover& row, const PoolCover& column,
                                    const T* grad, int64_t readable) {
  const PoolAxis &rows = plan.rows, &columns = plan.columns;
  Vec<C> sum{};
  for (int64_t k = 0; k < row.count; ++k) {
    const int64_t p = row.window + k * rows.window_step;
    for (int64_t l = 0; l < column.count; ++l) {
      const int64_t q = column.window + l * columns.window_step;
      const int64_t at = (p * columns.windows + q) * plan.channels;
      const Divisor<C> divided(rows.window[p].divisor * columns.window[q].divisor);
      sum += divided(load_first(grad + at, readable - at));
    }
  }
  return sum;
}

// A pixel under the same windows as its left neighbour is a copy of it, a row under those of the row above
// too.
template <typename T>
static void backward_channels(const PoolPlan& plan, const T* grad, T* grad_x, void*, int64_t begin,
                              int64_t end) {
  using C = compute_t<T>;
  const PoolAxis &rows = plan.rows, &columns = plan.columns;
  const int64_t row_inputs = columns.size * plan.channels;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t h = unit % rows.size;
    T* out = grad_x + unit * row_inputs;
    if (unit > begin && h > 0 && same_cover(rows.cover[h], rows.cover[h - 1])) {
      std::memcpy(out, out - row_inputs, static_cast<size_t>(row_inputs) * sizeof(T));
      continue;
    }
    const int64_t plane = unit / rows.size * rows.windows * columns.windows * plan.channels;
    for (int64_t w = 0; w < columns.size; ++w) {
      const bool copies = w > 0 && same_cover(columns.cover[w], columns.cover[w - 1]);
      for (int64_t c = 0; c < plan.channels; c += kLanes<C>) {
        T* pixel = out + w * plan.channels + c;
        const int64_t writable = grad_x + end * row_inputs - pixel;
        const Vec<C> v = copies ? load_first(pixel - plan.channels, writable)
                                : pixel_gradient(plan, rows.cover[h], columns.cover[w], grad + plane + c,
                                                 plan.outputs() - plane - c);
        store_first(pixel, v, writable);
      }
    }
  }
}

template <typename T>
static int64_t scratch_bytes(const PoolPlan& plan) {
  Arena even(nullptr), uneven(nullptr);
  if (plan.columns.stride > 0) AverageRows<compute_t<T>>(plan, even);
  UnevenScratch<compute_t<T>>(plan, uneven);
  return larger(even.bytes(), uneven.bytes());
}

template <typename T>
const AvgPool2dKernels<T>& avg_pool2d_kernels() {
  static constexpr AvgPool2dKernels<T> table{
      {forward_pairs<T>, forward_rows<T>, forward_wide<T>, forward_uneven<T>, forward_channels<T>},
      {backward_pairs<T>, backward_rows<T>, backward_wide<T>, backward_uneven<T>, backward_channels<T>},
      scratch_bytes<T>};
  return table;
}

CNNEXT_INSTANTIATE_KERNELS(AvgPool2dKernels, avg_pool2d_kernels)

}  // namespace cnnext::CNNEXT_ISA
