// The direct convolution's weight-gradient tiles: the sums of several taps stay in registers over a whole
// band, and at its end are added to vectors of sums in memory, [output channel or block][tap][lane].
#pragma once

#include "conv2d_direct_plan.h"
#include "conv2d_direct_tile.h"
#include "simd/vec.h"

namespace cnnext::CNNEXT_ISA {

// One band: gradients of a block of output channels, and the packed input. Element strides.
template <typename C>
struct TapsJob {
  const C* x;
  int64_t x_row,
      x_step;  // to the next output row; to the next vector (pixels, depthwise) or pixel (channels)
  const C* grad;
  int64_t grad_row, grad_step, grad_channel;
  int64_t rows, cols;  // cols: vectors or pixels, as the steps
  int64_t last;        // lanes in use of a row's last vector; all of them unless the lanes are pixels

  // Rows whose products are summed in registers before they meet the sums in memory: chains of additions that
  // are much longer have larger errors than those of torch.
  int64_t segment() const {
    constexpr int64_t kChain = 48;
    return larger<int64_t>(1, kChain / cols);
  }
};

// Σ of all vectors of the band's gradient added to sum[0, kLanes): the bias's gradient.
template <typename C>
static void add_grad(const TapsJob<C>& job, const C* grad, C* sum) {
  CarriedSum<C> carried{load(sum)};
  const int64_t whole = job.cols - (job.last < kLanes<C> ? 1 : 0);
  for (int64_t row = 0; row < job.rows;) {
    Vec<C> total[4] = {};
    for (const int64_t end = smaller(row + job.segment(), job.rows); row < end; ++row, grad += job.grad_row) {
      int64_t col = 0;
      for (; col + 4 <= whole; col += 4) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) total[i] += load(grad + (col + i) * job.grad_step);
      }
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i) {
        if (col + i < whole) total[i] += load(grad + (col + i) * job.grad_step);
      }
      if (whole < job.cols) total[3] += load_first(grad + whole * job.grad_step, job.last);
    }
    carried.add((total[0] + total[1]) + (total[2] + total[3]));
  }
  store(sum, carried.value());
}

// ---- lanes over pixels, or over channels that do not mix ----

// sum[k][t] += grad[k] · x[t] at column `at`. Lanes past a row's end hold other pixels, of x and of the
// gradient, perhaps Inf or NaN: in the row's last vector both are cleared.
template <typename C, int kChannels, int kTaps, bool kLast>
CNNEXT_INLINE void add_products(Vec<C> (&sum)[kChannels][kTaps], const C* const (&x)[kTaps], int64_t x_at,
                                const C* grad, int64_t grad_channel, int64_t last, Mask<C> mask) {
  Vec<C> g[kChannels];
#pragma GCC unroll 4
  for (int k = 0; k < kChannels; ++k) {
    const C* at = grad + k * grad_channel;
    g[k] = kLast ? load_first(at, last) : load(at);
  }
#pragma GCC unroll 9
  for (int t = 0; t < kTaps; ++t) {
    Vec<C> tap = load(x[t] + x_at);
    if constexpr (kLast) tap = select<C>(mask, tap, Vec<C>{});
    // Most taps straddle two cache lines; g++ would else load them again for each channel.
    in_register(tap);
#pragma GCC unroll 4
    for (int k = 0; k < kChannels; ++k) sum[k][t] = g[k] * tap + sum[k][t];
  }
}

template <typename C, int kRows, int kCols>
CNNEXT_INLINE void add_to_memory(Vec<C> (&sum)[kRows][kCols], C* sums, int64_t pitch) {
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 9
    for (int j = 0; j < kCols; ++j) {
      C* const to = sums + i * pitch + j * kLanes<C>;
      store(to, load(to) + sum[i][j]);
      sum[i][j] = Vec<C>{};
    }
  }
}

template <typename C, int kChannels, int kTaps, bool kDepthwise>
static void taps_tile(const TapsJob<C>& job, const int64_t* offsets, C* sums, int64_t sums_channel) {
  Vec<C> sum[kChannels][kTaps] = {};
  const Mask<C> mask = first_lanes<C>(job.last);
  const C* x[kTaps];
#pragma GCC unroll 9
  for (int t = 0; t < kTaps; ++t) x[t] = job.x + offsets[t];
  const int64_t unmasked = job.cols - (kDepthwise ? 0 : 1);
  for (int64_t row = 0; row < job.rows;) {
    for (const int64_t end = smaller(row + job.segment(), job.rows); row < end; ++row) {
      const C* grad = job.grad + row * job.grad_row;
      int64_t at = row * job.x_row;
      for (int64_t col = 0; col < unmasked; ++col, at += job.x_step, grad += job.grad_step) {
        add_products<C, kChannels, kTaps, false>(sum, x, at, grad, job.grad_channel, job.last, mask);
      }
      if (!kDepthwise)
        add_products<C, kChannels, kTaps, true>(sum, x, at, grad, job.grad_channel, job.last, mask);
    }
    add_to_memory<C>(sum, sums, sums_channel);
  }
}

// Taps that one tile takes for a block of 1 to 4 output channels: sums, gradients and one x fill the
// registers.
constexpr int taps_per_tile(int channels) {
  constexpr int kMany[] = {0, 9, 8, 7, 6}, kFew[] = {0, 9, 5, 3, 2};
  return kManyRegisters ? kMany[channels] : kFew[channels];
}

constexpr int64_t taps_block(int64_t rest) {
  if (rest <= 4 || rest % 4 == 0) return smaller<int64_t>(rest, 4);
  return rest % 3 == 0 || rest == 5 ? 3 : 4;
}

template <typename C, int kChannels, bool kDepthwise, int kTaps = taps_per_tile(kChannels)>
static void taps_tile_of(int64_t taps, const TapsJob<C>& job, const int64_t* offsets, C* sums,
                         int64_t channel) {
  if constexpr (kTaps > 1) {
    if (taps < kTaps)
      return taps_tile_of<C, kChannels, kDepthwise, kTaps - 1>(taps, job, offsets, sums, channel);
  }
  taps_tile<C, kChannels, kTaps, kDepthwise>(job, offsets, sums, channel);
}

template <typename C, int kChannels, bool kDepthwise>
static void taps_tiles(const TapsJob<C>& job, const int64_t* offsets, int64_t taps, C* sums) {
  const int64_t pieces = ceil_div<int64_t>(taps, taps_per_tile(kChannels));
  for (int64_t piece = 0, tap = 0; piece < pieces; ++piece) {
    const int64_t count = ceil_div(taps - tap, pieces - piece);
    taps_tile_of<C, kChannels, kDepthwise>(count, job, offsets + tap, sums + tap * kLanes<C>,
                                           taps * kLanes<C>);
    tap += count;
  }
}

// ---- lanes over output channels ----

// A run is a row of neighbouring taps of one column phase: one pointer and constant distances serve all of
// them.
inline constexpr int kLongestRun = 7;

constexpr int runs_per_tile(int length) {
  constexpr int kMany[] = {0, 8, 8, 8, 6, 5, 4, 4}, kFew[] = {0, 8, 6, 4, 3, 2, 2, 1};
  return kManyRegisters ? kMany[length] : kFew[length];
}

template <typename C, int kRuns, int kLength>
static void runs_tile(const TapsJob<C>& job, const int64_t* offsets, C* sums) {
  Vec<C> sum[kRuns][kLength] = {};
  for (int64_t row = 0; row < job.rows;) {
    for (const int64_t end = smaller(row + job.segment(), job.rows); row < end; ++row) {
      const C* grad = job.grad + row * job.grad_row;
      const C* x[kRuns];
#pragma GCC unroll 8
      for (int run = 0; run < kRuns; ++run) x[run] = job.x + row * job.x_row + offsets[run];
      // Opaque: g++ would else notice that the next column reads all but one of a run's values again and
      // carry them in scalar registers, whose broadcast takes the port of an FMA; one from memory is free.
      for (int64_t col = 0; col < job.cols; col = opaque(col + 1), grad += job.grad_step) {
        const Vec<C> g = load(grad);
#pragma GCC unroll 8
        for (int run = 0; run < kRuns; ++run) {
#pragma GCC unroll 7
          for (int t = 0; t < kLength; ++t) sum[run][t] = broadcast(x[run][col + t]) * g + sum[run][t];
        }
      }
    }
    add_to_memory<C>(sum, sums, kLength * kLanes<C>);
  }
}

template <typename C, int kLength, int kRuns = runs_per_tile(kLength)>
static void runs_tile_of(int64_t runs, const TapsJob<C>& job, const int64_t* offsets, C* sums) {
  if constexpr (kRuns > 1) {
    if (runs < kRuns) return runs_tile_of<C, kLength, kRuns - 1>(runs, job, offsets, sums);
  }
  runs_tile<C, kRuns, kLength>(job, offsets, sums);
}

// `runs` runs of one length.
template <typename C, int kLength = kLongestRun>
static void runs_tiles(int64_t length, const TapsJob<C>& job, const int64_t* offsets, int64_t runs, C* sums) {
  if constexpr (kLength > 1) {
    if (length < kLength) return runs_tiles<C, kLength - 1>(length, job, offsets, runs, sums);
  }
  const int64_t pieces = ceil_div<int64_t>(runs, runs_per_tile(kLength));
  for (int64_t piece = 0, run = 0; piece < pieces; ++piece) {
    const int64_t count = ceil_div(runs - run, pieces - piece);
    runs_tile_of<C, kLength>(count, job, offsets + run, sums + run * kLength * kLanes<C>);
    run += count;
  }
}

}  // namespace cnnext::CNNEXT_ISA
