// The direct convolution's forward tiles: sums that stay in registers over all taps and source channels.
//
// A tap is an offset into the packed source (conv2d_direct_plan.h), so one loop over `taps` offsets serves
// every kernel size, stride, dilation and number of channels. Weights come packed as [tap][channel of the
// block].
#pragma once

#include "conv2d_direct_plan.h"
#include "simd/vec.h"

namespace cnnext::CNNEXT_ISA {

inline constexpr bool kManyRegisters = kVectorBytes == 64;  // 32 vector registers, else 16

// A block of output channels over the rows of a band. Element strides; x and y point at position (0, 0).
template <typename C>
struct TileJob {
  const C* x;
  int64_t x_row, x_step;  // to the next row, and to the next vector (pixels, depthwise) or pixel (channels)
  const C* weight;
  const int64_t* offsets;
  int64_t taps, segment;  // taps are summed in segments, and those in `totals`
  C* totals;              // scratch for the sums of a tile
  const C* bias;
  C* y;
  int64_t y_row, y_step, y_channel;
  int64_t rows, cols;  // cols: vectors (pixels, depthwise) or pixels (channels)
  // Lanes to store of every vector, and of the last one: of a row for pixels lanes, else of a pixel.
  int64_t full, last;
};

// The rounding errors of a sum of n terms one after the other grow with n; in segments of L they grow with
// L + n / L, at the price of one addition in memory for every L multiply-adds. Returns L for n = taps.
constexpr int64_t segment_of(int64_t taps) {
  constexpr int64_t kLongest = 32;
  return taps > kLongest ? ceil_div(taps, ceil_div(taps, kLongest)) : taps;
}

// A tile's sums so far, added to the totals; or, when `finish`, the totals or the bias added to the sums.
template <typename C, int kRows, int kCols, typename Bias>
CNNEXT_INLINE void end_segment(const TileJob<C>& job, Vec<C> (&sum)[kRows][kCols], bool first, bool finish,
                               const Bias& bias) {
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 14
    for (int j = 0; j < kCols; ++j) {
      C* const total = job.totals + (i * kCols + j) * kLanes<C>;
      const Vec<C> whole = sum[i][j] + (first ? bias(i) : load(total));
      if (finish) {
        sum[i][j] = whole;
      } else {
        store(total, whole);
        sum[i][j] = Vec<C>{};
      }
    }
  }
}

// ---- lanes over pixels, or over channels that do not mix ----

// Vectors that share each loaded weight, for a block of kChannels output channels: sums, sources and one
// weight fill the registers.
constexpr int vectors_per_tile(int channels) {
  constexpr int kMany[] = {0, 8, 8, 7, 6, 0, 4}, kFew[] = {0, 6, 4, 3, 2, 0, 2};
  return kManyRegisters ? kMany[channels] : kFew[channels];
}

template <typename C, int kVectors>
struct TileVectors {
  const C* x[kVectors];
  C* y[kVectors];
  int64_t count[kVectors];
};

template <typename C, int kChannels, bool kDepthwise>
static void vector_tile(const TileJob<C>& job, const TileVectors<C, vectors_per_tile(kChannels)>& at) {
  constexpr int kVectors = vectors_per_tile(kChannels);
  const auto bias = [&](int k) { return kDepthwise ? load(job.bias) : broadcast(job.bias[k]); };
  Vec<C> sum[kChannels][kVectors] = {};
  const C* weight = job.weight;
  for (int64_t t = 0;;) {
    const bool first = t == 0;
    const int64_t end = smaller(t + job.segment, job.taps);
    for (; t < end; ++t) {
      const int64_t offset = job.offsets[t];
      Vec<C> x[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) x[v] = load(at.x[v] + offset);
#pragma GCC unroll 8
      for (int k = 0; k < kChannels; ++k) {
        const Vec<C> w = kDepthwise ? load(weight) : broadcast(weight[k]);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sum[k][v] = x[v] * w + sum[k][v];
      }
      weight += kDepthwise ? kLanes<C> : kChannels;
    }
    if (end == job.taps) {
      end_segment<C>(job, sum, first, true, bias);
      break;
    }
    end_segment<C>(job, sum, first, false, bias);
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 8
    for (int k = 0; k < kChannels; ++k) store_first(at.y[v] + k * job.y_channel, sum[k][v], at.count[v]);
  }
}

// The vectors of the band in reading order, kVectors at a time: a tile may go on in the next row.
template <typename C, int kChannels, bool kDepthwise>
static void vector_tiles(const TileJob<C>& job) {
  constexpr int kVectors = vectors_per_tile(kChannels);
  int64_t row = 0, col = 0;
  while (row < job.rows) {
    TileVectors<C, kVectors> at;
    for (int v = 0; v < kVectors; ++v) {
      if (row == job.rows) {  // no vector left: read the first one again and store nothing
        at.x[v] = at.x[0], at.y[v] = at.y[0], at.count[v] = 0;
        continue;
      }
      at.x[v] = job.x + row * job.x_row + col * job.x_step;
      at.y[v] = job.y + row * job.y_row + col * job.y_step;
      at.count[v] = ++col == job.cols ? job.last : job.full;
      if (col == job.cols) col = 0, ++row;
    }
    vector_tile<C, kChannels, kDepthwise>(job, at);
  }
}

// Width of the next block of `rest` output channels, of which 6, 4 and 3 fill the registers: of 6 or 3 the
// one that wastes less of its last tile over a band of `vectors`.
constexpr int64_t pixels_block(int64_t rest, int64_t vectors) {
  if (rest % 4 == 0 || rest == 7) return 4;
  if (rest == 5) return 3;
  if (rest < 6) return rest;
  return round_up<int64_t>(vectors, vectors_per_tile(6)) <= round_up<int64_t>(vectors, vectors_per_tile(3))
             ? 6
             : 3;
}

template <typename C>
static void pixels_tiles(const TileJob<C>& job, int64_t channels) {
  switch (channels) {
    case 1:
      return vector_tiles<C, 1, false>(job);
    case 2:
      return vector_tiles<C, 2, false>(job);
    case 3:
      return vector_tiles<C, 3, false>(job);
    case 4:
      return vector_tiles<C, 4, false>(job);
    default:
      return vector_tiles<C, 6, false>(job);
  }
}

// ---- lanes over output channels ----

// Two vectors of channels by kTilePixels of one row, or one vector by kTilePixels of each of two rows.
inline constexpr int kTilePixels = kManyRegisters ? 14 : 6;

template <typename C, int kPixels, bool kWide>
static void channels_tile(const TileJob<C>& job, const C* x, C* y, bool second_row) {
  constexpr int kBlock = (kWide ? 2 : 1) * kLanes<C>;
  const int64_t x_second = kWide || !second_row ? 0 : job.x_row;
  const auto bias = [&](int half) { return load(job.bias + (kWide ? half * kLanes<C> : 0)); };
  Vec<C> sum[2][kPixels] = {};
  const C* weight = job.weight;
  for (int64_t t = 0;;) {
    const bool first = t == 0;
    const int64_t end = smaller(t + job.segment, job.taps);
    for (; t < end; ++t, weight += kBlock) {
      const C* pixels = x + job.offsets[t];
      // Opaque: with the distance of the rows known, g++ keeps an index register for every pixel below.
      const C* below = opaque(pixels + x_second);
      const Vec<C> low = load(weight), high = kWide ? load(weight + kLanes<C>) : low;
#pragma GCC unroll 14
      for (int i = 0; i < kPixels; ++i) {
        const Vec<C> pixel = broadcast(pixels[i]);
        sum[0][i] = pixel * low + sum[0][i];
        sum[1][i] = (kWide ? pixel : broadcast(below[i])) * high + sum[1][i];
      }
    }
    if (end == job.taps) {
      end_segment<C>(job, sum, first, true, bias);
      break;
    }
    end_segment<C>(job, sum, first, false, bias);
  }
#pragma GCC unroll 14
  for (int i = 0; i < kPixels; ++i) {
    C* to = y + i * job.y_step;
    store_first(to, sum[0][i], kWide ? kLanes<C> : job.last);
    if (kWide) store_first(to + kLanes<C>, sum[1][i], job.last);
    if (!kWide && second_row) store_first(to + job.y_row, sum[1][i], job.last);
  }
}

template <typename C, bool kWide, int kPixels = kTilePixels>
static void channels_tile_of(int64_t pixels, const TileJob<C>& job, const C* x, C* y, bool second_row) {
  if constexpr (kPixels > 1) {
    if (pixels < kPixels) return channels_tile_of<C, kWide, kPixels - 1>(pixels, job, x, y, second_row);
  }
  channels_tile<C, kPixels, kWide>(job, x, y, second_row);
}

// A row is cut into pieces that differ by at most one pixel, so that none of them is mostly loop overhead.
template <typename C, bool kWide>
static void channels_tiles(const TileJob<C>& job) {
  const int64_t pieces = ceil_div<int64_t>(job.cols, kTilePixels);
  for (int64_t row = 0; row < job.rows; row += kWide ? 1 : 2) {
    const C* x = job.x + row * job.x_row;
    C* y = job.y + row * job.y_row;
    for (int64_t piece = 0, col = 0; piece < pieces; ++piece) {
      const int64_t pixels = ceil_div(job.cols - col, pieces - piece);
      channels_tile_of<C, kWide>(pixels, job, x + col, y + col * job.y_step, row + 1 < job.rows);
      col += pixels;
    }
  }
}

}  // namespace cnnext::CNNEXT_ISA
