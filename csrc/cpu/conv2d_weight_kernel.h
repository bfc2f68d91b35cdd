// The weight gradient of conv2d, included by conv2d_kernel.cpp:
//   grad_weight[k, c, r, s] = Σ_{n,p,q} grad[n, k, p, q] · x[n, c, p·stride_h − pad_h + r·dil_h, …]
//
// Idea: lanes hold output channels, rows of the register tile hold input channels of one tap; the reduction
// runs over the pixels of a strip, straight from [n, h, w, c] memory. Rows and columns whose tap falls into
// the padding are left out by the bounds of the loops, so nothing is packed and nothing is tested inside.
#pragma once

#include "conv2d_pack.h"

namespace cnnext::CNNEXT_ISA {

#if defined(__AVX512F__)
inline constexpr int kWeightRows = 12;
#else
inline constexpr int kWeightRows = 6;
#endif

// A strip of pixels as one tap and one block of input channels see it.
template <typename C>
struct WeightStrip {
  const C* x;     // first input channel of the block at the strip's first valid pixel
  const C* grad;  // first lane there
  int64_t images, rows, cols;
  int64_t x_image, x_row, x_col, grad_image, grad_row, grad_col;  // steps between valid pixels
};

// sums[kRows][kVectors vectors] (+)= Σ_pixels x[pixel][row] · grad[pixel][lane]; `live` lanes exist.
template <typename C, int kRows, int kVectors, bool kFull>
__attribute__((noinline)) static void weight_microkernel(const WeightStrip<C>& strip, C* sums, int64_t live,
                                                         bool first) {
  constexpr int kL = kLanes<C>;
  Vec<C> sum[kRows][kVectors] = {};
  for (int64_t n = 0; n < strip.images; ++n) {
    for (int64_t i = 0; i < strip.rows; ++i) {
      const C* x = strip.x + n * strip.x_image + i * strip.x_row;
      const C* grad = strip.grad + n * strip.grad_image + i * strip.grad_row;
      for (int64_t j = 0; j < strip.cols; ++j, x += strip.x_col, grad += strip.grad_col) {
        Vec<C> column[kVectors];
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
          column[v] =
              kFull ? load(grad + v * kL) : load_first(grad + v * kL, larger<int64_t>(0, live - v * kL));
        }
#pragma GCC unroll 12
        for (int r = 0; r < kRows; ++r) {
          const Vec<C> row = broadcast(x[r]);
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) sum[r][v] = row * column[v] + sum[r][v];
        }
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      C* at = sums + (r * kVectors + v) * kL;
      store(at, first ? sum[r][v] : load(at) + sum[r][v]);
    }
  }
}

template <typename C, int kVectors, bool kFull>
static void weight_channels(WeightStrip<C> strip, C* sums, int64_t channels, int64_t live, bool first) {
  constexpr int64_t kWidth = kVectors * kLanes<C>;
  const auto advance = [&](int64_t rows) {
    strip.x += rows;
    sums += rows * kWidth;
    channels -= rows;
  };
  for (; channels >= kWeightRows; advance(kWeightRows)) {
    weight_microkernel<C, kWeightRows, kVectors, kFull>(strip, sums, live, first);
  }
  for (; channels >= 4; advance(4)) weight_microkernel<C, 4, kVectors, kFull>(strip, sums, live, first);
  for (; channels > 0; advance(1)) weight_microkernel<C, 1, kVectors, kFull>(strip, sums, live, first);
}

// Outputs [first, last) along one axis whose tap, at `offset` from output·stride, falls inside [0, extent).
struct ValidRange {
  int64_t first, last;

  int64_t count() const { return larger<int64_t>(0, last - first); }
};

static ValidRange valid_range(int64_t offset, int64_t stride, int64_t extent, int64_t begin, int64_t end) {
  const int64_t first = offset >= 0 ? 0 : ceil_div(-offset, stride);
  const int64_t last = offset >= extent ? 0 : (extent - 1 - offset) / stride + 1;
  return {larger(begin, first), smaller(end, last)};
}

// Images [n0, n1), output rows [p0, p1).
struct StripRange {
  int64_t n0, n1, p0, p1;
};

static StripRange strip_range(const Conv2dWeightPlan& plan, int64_t strip) {
  const int64_t per_image = plan.strips_per_image();
  const int64_t n = strip / per_image * plan.strip_images, p = strip % per_image * plan.strip_rows;
  return {n, smaller(plan.shape.n, n + plan.strip_images), p, smaller(plan.shape.p, p + plan.strip_rows)};
}

// One strip for all taps of group g and the channel tile at `channel`.
template <typename C>
static void weight_strip(const Conv2dWeightPlan& plan, const C* x, const C* grad, C* sums,
                         const StripRange& range, int64_t g, int64_t channel, int64_t live, bool write) {
  const Conv2dShape& shape = plan.shape;
  const int64_t width = plan.channel_tile, channels = shape.group_c();
  for (int64_t r = 0; r < shape.r; ++r) {
    const int64_t dh = r * shape.dil_h - shape.pad_h;
    const ValidRange rows = valid_range(dh, shape.stride_h, shape.h, range.p0, range.p1);
    for (int64_t s = 0; s < shape.s; ++s) {
      const int64_t dw = s * shape.dil_w - shape.pad_w;
      const ValidRange cols = valid_range(dw, shape.stride_w, shape.w, 0, shape.q);
      const bool empty = rows.count() == 0 || cols.count() == 0;
      if (empty && !write) continue;
      const int64_t h = rows.first * shape.stride_h + dh, w = cols.first * shape.stride_w + dw;
      const int64_t x_at = ((range.n0 * shape.h + h) * shape.w + w) * shape.c + g * channels;
      const int64_t grad_at = ((range.n0 * shape.p + rows.first) * shape.q + cols.first) * shape.k + channel;
      const WeightStrip<C> strip{x + (empty ? 0 : x_at),
                                 grad + (empty ? 0 : grad_at),
                                 empty ? 0 : range.n1 - range.n0,
                                 rows.count(),
                                 cols.count(),
                                 shape.h * shape.w * shape.c,
                                 shape.stride_h * shape.w * shape.c,
                                 shape.stride_w * shape.c,
                                 shape.p * shape.q * shape.k,
                                 shape.q * shape.k,
                                 shape.k};
      C* tap = sums + (r * shape.s + s) * channels * width;
      if (width == kLanes<C>) {
        if (live == width)
          weight_channels<C, 1, true>(strip, tap, channels, live, write);
        else
          weight_channels<C, 1, false>(strip, tap, channels, live, write);
      } else if (live == width) {
        weight_channels<C, 2, true>(strip, tap, channels, live, write);
      } else {
        weight_channels<C, 2, false>(strip, tap, channels, live, write);
      }
    }
  }
}

// Four sums take turns: a single chain would wait for each of its additions. None is longer than a block, or
// its error would be larger than that of torch's sum, which is cut in two again and again.
template <typename C>
static void add_bias(const Conv2dWeightPlan& plan, const C* grad, C* sums, const StripRange& range,
                     int64_t live, bool write) {
  constexpr int64_t kBlock = 32;
  const Conv2dShape& shape = plan.shape;
  const int64_t pixels = (range.n1 - range.n0 - 1) * shape.p * shape.q + (range.p1 - range.p0) * shape.q;
  const C* first = grad + (range.n0 * shape.p + range.p0) * shape.q * shape.k;
  for (int64_t l = 0; l < live; l += kLanes<C>) {
    CarriedSum<C> sum{};
    if (!write) sum.total = load(sums + l);
    const C* at = first + l;
    for (int64_t i = 0; i < pixels;) {
      Vec<C> part[4] = {};
      const int64_t end = smaller(i + kBlock, pixels);
      for (; i + 4 <= end; i += 4) {
#pragma GCC unroll 4
        for (int turn = 0; turn < 4; ++turn, at += shape.k) part[turn] += load_first(at, live - l);
      }
#pragma GCC unroll 3
      for (int turn = 0; turn < 3; ++turn) {
        if (i == end) break;
        part[turn] += load_first(at, live - l);
        ++i, at += shape.k;
      }
      sum.add((part[0] + part[1]) + (part[2] + part[3]));
    }
    store(sums + l, sum.value());
  }
}

template <typename T>
static void weight_sums(const Conv2dWeightPlan& plan, const compute_t<T>* x, const compute_t<T>* grad,
                        compute_t<T>* sums, int64_t task, bool first) {
  const Conv2dShape& shape = plan.shape;
  const int64_t per_chunk = shape.groups * plan.tiles, chunk = task / per_chunk, tile = task % per_chunk;
  const int64_t g = tile / plan.tiles, k0 = tile % plan.tiles * plan.channel_tile;
  const int64_t channel = g * shape.group_k() + k0, live = smaller(plan.channel_tile, shape.group_k() - k0);
  auto* bias = sums + shape.gemm_k() * plan.channel_tile;
  const int64_t begin = plan.strips() * chunk / plan.chunks, end = plan.strips() * (chunk + 1) / plan.chunks;
  for (int64_t strip = begin; strip < end; ++strip) {
    const StripRange range = strip_range(plan, strip);
    const bool write = first && strip == begin;
    weight_strip(plan, x, grad, sums, range, g, channel, live, write);
    add_bias(plan, grad + channel, bias, range, live, write);
  }
}

// Σ over the chunks of the vector at `at`.
template <typename C>
CNNEXT_INLINE Vec<C> add_chunks(const C* at, int64_t chunks, int64_t chunk_step) {
  CarriedSum<C> sum{load(at)};
  for (int64_t chunk = 1; chunk < chunks; ++chunk) sum.add(load(at + chunk * chunk_step));
  return sum.value();
}

template <typename T>
static void weight_reduce(const Conv2dWeightPlan& plan, const compute_t<T>* sums, int64_t chunk_step,
                          T* grad_weight, T* grad_bias, int64_t unit) {
  using C = compute_t<T>;
  constexpr int64_t kL = kLanes<C>;
  const Conv2dShape& shape = plan.shape;
  const int64_t taps = shape.r * shape.s, width = plan.channel_tile, channels = shape.group_c();
  const int64_t tile = unit / plan.reduce_blocks(), c0 = unit % plan.reduce_blocks() * plan.kReduceChannels;
  const int64_t k0 = tile % plan.tiles * width, live = smaller(width, shape.group_k() - k0);
  const int64_t k_first = tile / plan.tiles * shape.group_k() + k0;
  // f counts [c][r][s], the order of grad_weight.
  const int64_t f_begin = c0 * taps, f_end = smaller(channels, c0 + plan.kReduceChannels) * taps;
  for (int64_t lane = 0; lane < live; lane += kL) {
    for (int64_t f = f_begin; f < f_end; f += kL) {
      Vec<C> block[kL];
#pragma GCC unroll 1
      for (int64_t i = 0; i < kL; ++i) {
        const int64_t c = (f + i) / taps, t = (f + i) % taps;
        const bool exists = f + i < f_end;
        block[i] =
            exists ? add_chunks(sums + (t * channels + c) * width + lane, plan.chunks, chunk_step) : Vec<C>{};
      }
      transpose<C>(block);
      for (int64_t l = 0; l < smaller(kL, live - lane); ++l) {
        store_first(grad_weight + (k_first + lane + l) * shape.gemm_k() + f, block[l], f_end - f);
      }
    }
    if (c0 == 0) {
      const Vec<C> total = add_chunks(sums + shape.gemm_k() * width + lane, plan.chunks, chunk_step);
      store_first(grad_bias + k_first + lane, total, live - lane);
    }
  }
}

}  // namespace cnnext::CNNEXT_ISA
