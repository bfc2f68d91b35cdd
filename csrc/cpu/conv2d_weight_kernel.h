// The weight gradient of conv2d, included by conv2d_kernel.cpp:
//   grad_weight[k, c, r, s] = Σ_{n,p,q} grad[n, k, p, q] · x[n, c, p·stride_h − pad_h + r·dil_h, …]
//
// Idea: lanes hold output channels, rows of the register tile hold input channels of one tap; the reduction
// runs over the pixels of a strip of output rows, straight from [n, h, w, c] memory. Columns whose tap falls
// into the padding are left out by the bounds of the loop, so nothing is packed and nothing is tested inside.
#pragma once

#include "conv2d_kernel.h"
#include "simd/gemm_microkernel.h"

namespace cnnext::CNNEXT_ISA {

#if defined(__AVX512F__)
inline constexpr int kWeightRows = 12;
#else
inline constexpr int kWeightRows = 6;
#endif
inline constexpr int64_t kStripPixels =
    64;  // summed in registers; longer chains of float additions lose bits

// A strip of output rows as one tap and one block of input channels see it.
template <typename C>
struct WeightStrip {
  const C* x;     // first input channel of the block at the strip's first valid pixel
  const C* grad;  // first lane there
  int64_t rows, cols, x_row, x_col, grad_row, grad_col;  // valid pixels, and steps between them
};

// sums[kRows][kVectors vectors] += Σ_pixels x[pixel][row] · grad[pixel][lane]; `live` lanes of the last
// vector exist.
template <typename C, int kRows, int kVectors, bool kFull>
__attribute__((noinline)) static void weight_microkernel(const WeightStrip<C>& strip, C* sums, int64_t live) {
  constexpr int kL = kLanes<C>;
  Vec<C> sum[kRows][kVectors] = {};
  for (int64_t i = 0; i < strip.rows; ++i) {
    const C* x = strip.x + i * strip.x_row;
    const C* grad = strip.grad + i * strip.grad_row;
    for (int64_t j = 0; j < strip.cols; ++j, x += strip.x_col, grad += strip.grad_col) {
      Vec<C> column[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v)
        column[v] =
            kFull ? load(grad + v * kL) : load_first(grad + v * kL, larger<int64_t>(0, live - v * kL));
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
        const Vec<C> row = broadcast(x[r]);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sum[r][v] = row * column[v] + sum[r][v];
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      C* at = sums + (r * kVectors + v) * kL;
      store(at, load(at) + sum[r][v]);
    }
  }
}

template <typename C, int kVectors, bool kFull>
static void weight_channels(WeightStrip<C> strip, C* sums, int64_t channels, int64_t live) {
  constexpr int64_t kWidth = kVectors * kLanes<C>;
  const auto advance = [&](int64_t rows) {
    strip.x += rows;
    sums += rows * kWidth;
    channels -= rows;
  };
  for (; channels >= kWeightRows; advance(kWeightRows)) {
    weight_microkernel<C, kWeightRows, kVectors, kFull>(strip, sums, live);
  }
  for (; channels >= 4; advance(4)) weight_microkernel<C, 4, kVectors, kFull>(strip, sums, live);
  for (; channels > 0; advance(1)) weight_microkernel<C, 1, kVectors, kFull>(strip, sums, live);
}

// Outputs [first, last) along one axis whose tap, at `offset` from output·stride, falls inside [0, extent).
struct ValidRange {
  int64_t first, last;
};

static ValidRange valid_range(int64_t offset, int64_t stride, int64_t extent, int64_t begin, int64_t end) {
  const int64_t first = offset >= 0 ? 0 : ceil_div(-offset, stride);
  const int64_t last = offset >= extent ? 0 : (extent - 1 - offset) / stride + 1;
  return {larger(begin, first), smaller(end, last)};
}

// One strip of rows [p0, p1) of image n, for all taps of group g and the channel tile at `channel`.
template <typename C>
static void weight_strip(const Conv2dWeightPlan& plan, const C* x, const C* grad, C* sums, int64_t n,
                         int64_t p0, int64_t p1, int64_t g, int64_t channel, int64_t live) {
  const Conv2dShape& shape = plan.shape;
  const int64_t width = plan.channel_tile;
  for (int64_t r = 0; r < shape.r; ++r) {
    const int64_t dh = r * shape.dil_h - shape.pad_h;
    const ValidRange rows = valid_range(dh, shape.stride_h, shape.h, p0, p1);
    if (rows.first >= rows.last) continue;
    for (int64_t s = 0; s < shape.s; ++s) {
      const int64_t dw = s * shape.dil_w - shape.pad_w;
      const ValidRange cols = valid_range(dw, shape.stride_w, shape.w, 0, shape.q);
      if (cols.first >= cols.last) continue;
      const int64_t h = rows.first * shape.stride_h + dh, w = cols.first * shape.stride_w + dw;
      const WeightStrip<C> strip{
          x + ((n * shape.h + h) * shape.w + w) * shape.c + g * shape.group_c(),
          grad + ((n * shape.p + rows.first) * shape.q + cols.first) * shape.k + channel,
          rows.last - rows.first,
          cols.last - cols.first,
          shape.stride_h * shape.w * shape.c,
          shape.stride_w * shape.c,
          shape.q * shape.k,
          shape.k};
      C* tap = sums + (r * shape.s + s) * shape.group_c() * width;
      if (width == kLanes<C>) {
        if (live == width)
          weight_channels<C, 1, true>(strip, tap, shape.group_c(), live);
        else
          weight_channels<C, 1, false>(strip, tap, shape.group_c(), live);
      } else if (live == width) {
        weight_channels<C, 2, true>(strip, tap, shape.group_c(), live);
      } else {
        weight_channels<C, 2, false>(strip, tap, shape.group_c(), live);
      }
    }
  }
}

template <typename T>
static void weight_sums(const Conv2dWeightPlan& plan, const compute_t<T>* x, const compute_t<T>* grad,
                        compute_t<T>* all_sums, int64_t task) {
  using C = compute_t<T>;
  const Conv2dShape& shape = plan.shape;
  const int64_t per_chunk = shape.groups * plan.tiles, chunk = task / per_chunk, tile = task % per_chunk;
  const int64_t g = tile / plan.tiles, k0 = tile % plan.tiles * plan.channel_tile;
  const int64_t channel = g * shape.group_k() + k0, live = smaller(plan.channel_tile, shape.group_k() - k0);
  const int64_t size = shape.gemm_k() * plan.channel_tile;
  C* sums = all_sums + chunk * plan.sums() + tile * size;
  C* bias = all_sums + chunk * plan.sums() + plan.weight_sums() + tile * plan.channel_tile;
  for (int64_t i = 0; i < size; ++i) sums[i] = 0;
  for (int64_t i = 0; i < plan.channel_tile; ++i) bias[i] = 0;
  const int64_t rows = shape.n * shape.p, begin = rows * chunk / plan.chunks,
                end = rows * (chunk + 1) / plan.chunks;
  const int64_t strip = larger<int64_t>(1, kStripPixels / larger<int64_t>(1, shape.q));
  for (int64_t row = begin; row < end;) {
    const int64_t n = row / shape.p, p0 = row % shape.p;
    const int64_t p1 = smaller(smaller(shape.p, p0 + strip), p0 + end - row);
    weight_strip<C>(plan, x, grad, sums, n, p0, p1, g, channel, live);
    const C* pixels = grad + row * shape.q * shape.k + channel;
    for (int64_t l = 0; l < live; l += kLanes<C>) {
      Vec<C> sum{};
      for (int64_t i = 0; i < (p1 - p0) * shape.q; ++i) sum += load_first(pixels + i * shape.k + l, live - l);
      store_first(bias + l, load_first(bias + l, live - l) + sum, live - l);
    }
    row += p1 - p0;
  }
}

template <typename T>
static void weight_reduce(const Conv2dWeightPlan& plan, const compute_t<T>* sums, T* grad_weight,
                          int64_t begin, int64_t end) {
  const Conv2dShape& shape = plan.shape;
  const int64_t taps = shape.r * shape.s, size = shape.gemm_k() * plan.channel_tile;
  for (int64_t channel = begin; channel < end; ++channel) {
    const int64_t g = channel / shape.group_c(), c = channel % shape.group_c();
    for (int64_t k = 0; k < shape.group_k(); ++k) {
      const int64_t tile = g * plan.tiles + k / plan.channel_tile, lane = k % plan.channel_tile;
      T* out = grad_weight + ((g * shape.group_k() + k) * shape.group_c() + c) * taps;
      for (int64_t t = 0; t < taps; ++t) {
        const auto* at = sums + tile * size + (t * shape.group_c() + c) * plan.channel_tile + lane;
        double total = 0;
        for (int64_t chunk = 0; chunk < plan.chunks; ++chunk)
          total += static_cast<double>(at[chunk * plan.sums()]);
        out[t] = from_compute<T>(static_cast<compute_t<T>>(total));
      }
    }
  }
}

template <typename T>
static void bias_reduce(const Conv2dWeightPlan& plan, const compute_t<T>* sums, T* grad_bias) {
  const Conv2dShape& shape = plan.shape;
  for (int64_t k = 0; k < shape.k; ++k) {
    const int64_t in_group = k % shape.group_k(),
                  tile = k / shape.group_k() * plan.tiles + in_group / plan.channel_tile;
    const auto* at = sums + plan.weight_sums() + tile * plan.channel_tile + in_group % plan.channel_tile;
    double total = 0;
    for (int64_t chunk = 0; chunk < plan.chunks; ++chunk)
      total += static_cast<double>(at[chunk * plan.sums()]);
    grad_bias[k] = from_compute<T>(static_cast<compute_t<T>>(total));
  }
}

}  // namespace cnnext::CNNEXT_ISA
