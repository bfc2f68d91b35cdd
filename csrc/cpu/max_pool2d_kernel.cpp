// max_pool2d, forward and backward.   y[n,c,p,q] = max over the taps (r,s) inside the input of x[n,c,h,w]
//
// tap[] is r·S + s of the winner: the first maximum in that order, or the last NaN, for a NaN wins over
// everything (both as in torch). A byte per output where torch keeps a flat index of eight, and it makes the
// backward pass a gather: each pixel asks the windows over it whether it won, so that no two threads write
// one place. Idea: a vector holds neighbouring windows of a row (NCHW, see pool2d_phases.h) or channels of a
// pixel (NHWC).
#include "max_pool2d_kernel.h"

#include "max_pool2d_3x3.h"
#include "max_pool2d_rows.h"
#include "pool2d_channels.h"
#include "pool2d_pairs.h"

namespace cnnext::CNNEXT_ISA {

// ---- NCHW, 2×2
// ----------------------------------------------------------------------------------------------

template <typename T>
static void forward_pairs(const PoolPlan& plan, bool, const T* x, T* y, void* tap, void*, int64_t begin,
                          int64_t end) {
  using C = compute_t<T>;
  auto* taps = static_cast<uint8_t*>(tap);
  for_pair_windows(plan, x, begin, end,
                   [&](Vec<C> a0, Vec<C> a1, Vec<C> b0, Vec<C> b1, const PairOutput& output) {
                     Vec<C> best = shuffle<C, EvenLanes>(a0, a1);
                     Mask<C> winner{};
                     const auto search = [&](const auto& meet) {
                       meet(shuffle<C, OddLanes>(a0, a1), all_lanes<C>(1), best, winner);
                       meet(shuffle<C, EvenLanes>(b0, b1), all_lanes<C>(2), best, winner);
                       meet(shuffle<C, OddLanes>(b0, b1), all_lanes<C>(3), best, winner);
                     };
                     if (has_nan<C>((a0 + a1) + (b0 + b1))) {
                       search(challenge<C>);
                     } else {
                       search(challenge_ordered<C>);
                     }
                     store_pair(y, best, output);
                     store_narrow_first<C>(taps + output.at, winner, output.writable);
                     if (output.second == 0) return;
                     const Vec<C> lanes = reinterpret_cast<Vec<C>>(winner);
                     store_narrow_first<C>(taps + output.at + output.second,
                                           reinterpret_cast<Mask<C>>(shuffle<C, UpperHalf>(lanes, lanes)),
                                           output.writable - output.second);
                   });
}

template <typename T>
static void backward_pairs(const PoolPlan& plan, bool, const T* grad, const void* tap, T* grad_x, void*,
                           int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const auto* taps = static_cast<const uint8_t*>(tap);
  const int64_t outputs = plan.outputs();
  for_pair_pixels(plan, grad_x, begin, end, [&](int64_t output) {
    const Vec<C> g = load_first(grad + output, outputs - output);
    const Mask<C> winner = load_narrow_first<C>(taps + output, outputs - output);
    const auto won = [&](int64_t code) { return select<C>(winner == all_lanes<C>(code), g, Vec<C>{}); };
    return PairGradients<C>{won(0), won(1), won(2), won(3)};
  });
}

// ---- NHWC
// ---------------------------------------------------------------------------------------------------

template <typename T, typename Tap, int kVectors, typename C = compute_t<T>>
CNNEXT_INLINE void search_pixel(const PoolPlan& plan, const PoolWindow& row, const PoolWindow& column,
                                const T* x, int64_t readable, T* y, Tap* tap, int64_t writable) {
  const PoolAxis &rows = plan.rows, &columns = plan.columns;
  Vec<C> best[kVectors];
  Mask<C> winner[kVectors];
  const Mask<C> first = all_lanes<C>(row.first_tap * columns.taps + column.first_tap);
  for (int i = 0; i < kVectors; ++i) best[i] = broadcast(kLowest<C>), winner[i] = first;
  for (int64_t r = row.first_tap; r < row.end_tap; ++r) {
    const int64_t line = (row.origin + r * rows.dilation) * columns.size + column.origin;
    for (int64_t s = column.first_tap; s < column.end_tap; ++s) {
      const int64_t at = (line + s * columns.dilation) * plan.channels;
      const Mask<C> code = all_lanes<C>(r * columns.taps + s);
      for (int i = 0; i < kVectors; ++i) {
        const int64_t lane = i * kLanes<C>;
        const Vec<C> v = kVectors > 1 ? load(x + at + lane) : load_first(x + at, readable - at);
        challenge<C>(v, code, best[i], winner[i]);
      }
    }
  }
  for (int i = 0; i < kVectors; ++i) {
    const int64_t lane = i * kLanes<C>;
    store_first(y + lane, best[i], writable - lane);
    store_narrow_first<C>(tap + lane, winner[i], writable - lane);
  }
}

template <typename T, typename Tap>
static void forward_channels_of(const PoolPlan& plan, const T* x, T* y, Tap* tap, int64_t begin,
                                int64_t end) {
  using C = compute_t<T>;
  const PoolAxis &rows = plan.rows, &columns = plan.columns;
  const int64_t row_outputs = columns.windows * plan.channels;
  for (int64_t unit = begin; unit < end; ++unit) {
    const PoolWindow& row = rows.window[unit % rows.windows];
    const int64_t plane = unit / rows.windows * rows.size * columns.size * plan.channels;
    for (int64_t q = 0; q < columns.windows; ++q) {
      for_channels<C>(plan.channels, [&](auto vectors, int64_t c) {
        const int64_t output = unit * row_outputs + q * plan.channels + c;
        search_pixel<T, Tap, vectors.count>(plan, row, columns.window[q], x + plane + c,
                                            plan.inputs() - plane - c, y + output, tap + output,
                                            end * row_outputs - output);
      });
    }
  }
}

template <typename T, typename Tap, int kVectors, typename C = compute_t<T>>
CNNEXT_INLINE void gather_pixel(const PoolPlan& plan, const PoolCover& row, const PoolCover& column,
                                const T* grad, const Tap* tap, int64_t readable, T* grad_x,
                                int64_t writable) {
  const PoolAxis &rows = plan.rows, &columns = plan.columns;
  Vec<C> sum[kVectors] = {};
  for (int64_t k = 0; k < row.count; ++k) {
    const int64_t line = (row.window + k * rows.window_step) * columns.windows;
    const int64_t first = (row.tap - k * rows.tap_step) * columns.taps;
    for (int64_t l = 0; l < column.count; ++l) {
      const int64_t at = (line + column.window + l * columns.window_step) * plan.channels;
      const Mask<C> code = all_lanes<C>(first + column.tap - l * columns.tap_step);
      for (int i = 0; i < kVectors; ++i) {
        const int64_t from = at + i * kLanes<C>;
        const Mask<C> winner = load_narrow_first<C>(tap + from, kVectors > 1 ? kLanes<C> : readable - at);
        const Vec<C> g = load_first(grad + from, kVectors > 1 ? kLanes<C> : readable - at);
        sum[i] += select<C>(winner == code, g, Vec<C>{});
      }
    }
  }
  for (int i = 0; i < kVectors; ++i) store_first(grad_x + i * kLanes<C>, sum[i], writable - i * kLanes<C>);
}

template <typename T, typename Tap>
static void backward_channels_of(const PoolPlan& plan, const T* grad, const Tap* tap, T* grad_x,
                                 int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const PoolAxis &rows = plan.rows, &columns = plan.columns;
  const int64_t row_inputs = columns.size * plan.channels;
  for (int64_t unit = begin; unit < end; ++unit) {
    const PoolCover& row = rows.cover[unit % rows.size];
    const int64_t plane = unit / rows.size * rows.windows * columns.windows * plan.channels;
    for (int64_t w = 0; w < columns.size; ++w) {
      for_channels<C>(plan.channels, [&](auto vectors, int64_t c) {
        const int64_t input = unit * row_inputs + w * plan.channels + c;
        gather_pixel<T, Tap, vectors.count>(plan, row, columns.cover[w], grad + plane + c, tap + plane + c,
                                            plan.outputs() - plane - c, grad_x + input,
                                            end * row_inputs - input);
      });
    }
  }
}

// The transpose of backward: y takes x at the winning tap. A tap that is no tap of the window inside the
// input takes nothing, as backward gives nothing for it.
template <typename T, typename Tap>
static void gather_of(const PoolPlan& plan, const T* x, const Tap* tap, T* y, int64_t begin, int64_t end) {
  const PoolAxis &rows = plan.rows, &columns = plan.columns;
  for (int64_t unit = begin; unit < end; ++unit) {
    const PoolWindow& row = rows.window[unit % rows.windows];
    const T* plane = x + unit / rows.windows * rows.size * columns.size * plan.channels;
    for (int64_t q = 0; q < columns.windows; ++q) {
      const PoolWindow& column = columns.window[q];
      const int64_t output = (unit * columns.windows + q) * plan.channels;
      for (int64_t c = 0; c < plan.channels; ++c) {
        const int64_t code = tap[output + c], r = code / columns.taps, s = code % columns.taps;
        const bool inside =
            r >= row.first_tap && r < row.end_tap && s >= column.first_tap && s < column.end_tap;
        const int64_t h = row.origin + r * rows.dilation, w = column.origin + s * columns.dilation;
        y[output + c] = inside ? plane[(h * columns.size + w) * plan.channels + c] : T{};
      }
    }
  }
}

// ---- the table: from the run-time width of the taps to a type
// ---------------------------------------------------

template <typename T>
static void forward_rows(const PoolPlan& plan, bool wide_tap, const T* x, T* y, void* tap, void* scratch,
                         int64_t begin, int64_t end) {
  if (wide_tap) return forward_rows_of(plan, x, y, static_cast<int32_t*>(tap), scratch, begin, end);
  forward_rows_of(plan, x, y, static_cast<uint8_t*>(tap), scratch, begin, end);
}

template <typename T>
static void forward_channels(const PoolPlan& plan, bool wide_tap, const T* x, T* y, void* tap, void*,
                             int64_t begin, int64_t end) {
  if (wide_tap) return forward_channels_of(plan, x, y, static_cast<int32_t*>(tap), begin, end);
  forward_channels_of(plan, x, y, static_cast<uint8_t*>(tap), begin, end);
}

template <typename T>
static void backward_rows(const PoolPlan& plan, bool wide_tap, const T* grad, const void* tap, T* grad_x,
                          void* scratch, int64_t begin, int64_t end) {
  if (wide_tap) {
    return backward_rows_of(plan, grad, static_cast<const int32_t*>(tap), grad_x, scratch, begin, end);
  }
  backward_rows_of(plan, grad, static_cast<const uint8_t*>(tap), grad_x, scratch, begin, end);
}

template <typename T>
static void backward_channels(const PoolPlan& plan, bool wide_tap, const T* grad, const void* tap, T* grad_x,
                              void*, int64_t begin, int64_t end) {
  if (wide_tap) return backward_channels_of(plan, grad, static_cast<const int32_t*>(tap), grad_x, begin, end);
  backward_channels_of(plan, grad, static_cast<const uint8_t*>(tap), grad_x, begin, end);
}

template <typename T>
static void gather(const PoolPlan& plan, bool wide_tap, const T* x, const void* tap, T* y, void*,
                   int64_t begin, int64_t end) {
  if (wide_tap) return gather_of(plan, x, static_cast<const int32_t*>(tap), y, begin, end);
  gather_of(plan, x, static_cast<const uint8_t*>(tap), y, begin, end);
}

template <typename T>
static int64_t scratch_bytes(const PoolPlan& plan) {
  Arena forward(nullptr), backward(nullptr);
  ForwardRows<compute_t<T>>(plan, forward);
  BackwardRows<compute_t<T>>(plan, backward);
  return larger(forward.bytes(), backward.bytes());
}

template <typename T>
const MaxPool2dKernels<T>& max_pool2d_kernels() {
  static constexpr MaxPool2dKernels<T> table{
      {forward_pairs<T>, forward_3x3<T>, forward_rows<T>, forward_channels<T>},
      {backward_pairs<T>, backward_3x3<T>, backward_rows<T>, backward_channels<T>},
      gather<T>,
      scratch_bytes<T>};
  return table;
}

CNNEXT_INSTANTIATE_KERNELS(MaxPool2dKernels, max_pool2d_kernels)

}  // namespace cnnext::CNNEXT_ISA
