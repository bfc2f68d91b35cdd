// What conv2d's implicit GEMM copies before it multiplies, included by conv2d_kernel.cpp: activations into
// channels_last, weights into tiles of lanes, and the panel of patches.
#pragma once

#include "batch_norm_relu.h"
#include "conv2d_kernel.h"
#include "simd/gemm_microkernel.h"
#include "simd/transpose.h"

namespace cnnext::CNNEXT_ISA {

inline constexpr int64_t kPanelTiles = 8;  // a slice of weights in L1 is used for so many register tiles
inline constexpr int64_t kTaskPixels = kPanelTiles * kGemmRows;

// Groups narrower than a vector get tiles of one vector: half the lanes of two would be empty.
template <typename C>
static int64_t vectors_of(int64_t out) {
  return out <= kLanes<C> ? 1 : 2;
}

template <typename T>
static Conv2dTiles tiles(int64_t out) {
  using C = compute_t<T>;
  return {kTaskPixels, vectors_of<C>(out) * kLanes<C>};
}

// block[j] lane i = from[i·step + j], for i < rows and j < cols, both at most kLanes; else zero.
template <typename T, typename C = compute_t<T>>
CNNEXT_INLINE void load_transposed(const T* from, int64_t step, int64_t rows, int64_t cols,
                                   Vec<C> (&block)[kLanes<C>]) {
  if (rows >= kLanes<C> && cols >= kLanes<C>) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<C>; ++i) block[i] = load(from + i * step);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<C>; ++i) block[i] = i < rows ? load_first(from + i * step, cols) : Vec<C>{};
  }
  transpose<C>(block);
}

// Pixels [first, last) of an image of either layout.
template <typename T, typename Source, typename C = compute_t<T>>
static void copy_pixels(const T* x, C* y, int64_t channels, int64_t plane, bool channels_last, int64_t first,
                        int64_t last, const Source& source) {
  constexpr int64_t kL = kLanes<C>;
  if (channels_last && __is_same(Source, SourceAsItIs<C>)) {
    for (int64_t i = first * channels, end = last * channels; i < end; i += kL)
      store_first(y + i, load_first(x + i, end - i), end - i);
    return;
  }
  for (int64_t c = 0; c < channels; c += kL) {
    const int64_t rest = channels - c;
    const auto map = source.of_channels(c, rest);
    if (channels_last) {
      for (int64_t pixel = first; pixel < last; ++pixel) {
        const int64_t at = pixel * channels + c;
        store_first(y + at, map(load_first(x + at, rest)), rest);
      }
      continue;
    }
    for (int64_t pixel = first; pixel < last; pixel += kL) {
      Vec<C> block[kL];
      load_transposed(x + c * plane + pixel, plane, rest, last - pixel, block);
      C* to = y + pixel * channels + c;
      for (int64_t j = 0; j < smaller(kL, last - pixel); ++j)
        store_first(to + j * channels, map(block[j]), rest);
    }
  }
}

// Blocks [begin, end) of kCopyPixels pixels of an image; the last one of an image may be shorter.
template <typename T>
static void to_channels_last(const T* x, const Conv2dPrologue<compute_t<T>>& prologue, compute_t<T>* y,
                             int64_t channels, int64_t plane, bool channels_last, int64_t begin,
                             int64_t end) {
  const int64_t per_image = ceil_div(plane, kCopyPixels);
  with_prologue(prologue, [&](const auto& source) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / per_image * plane * channels, first = unit % per_image * kCopyPixels;
      copy_pixels(x + image, y + image, channels, plane, channels_last, first,
                  smaller(plane, first + kCopyPixels), source);
    }
  });
}

// One vector of lanes of a weight tile: `live` output channels, from `weight` on, the other lanes zero. `to`
// is the first vector of [tap][in][width].
template <typename T>
static void pack_lanes(const Conv2dGather& gather, const T* weight, const Conv2dWeightSteps& steps,
                       int64_t live, int64_t width, compute_t<T>* to) {
  using C = compute_t<T>;
  constexpr int64_t kL = kLanes<C>;
  Vec<C> block[kL];
  if (steps.out == 1) {
    for (int64_t t = 0; t < gather.tap_count; ++t) {
      const T* from = weight + gather.taps[t].weight_offset;
      for (int64_t c = 0; c < gather.in; ++c, to += width) store(to, load_first(from + c * steps.in, live));
    }
  } else if (steps.in == 1) {
    for (int64_t t = 0; t < gather.tap_count; ++t) {
      const T* from = weight + gather.taps[t].weight_offset;
      for (int64_t c = 0; c < gather.in; c += kL) {
        load_transposed(from + c, steps.out, live, gather.in - c, block);
        for (int64_t j = 0; j < smaller(kL, gather.in - c); ++j, to += width) store(to, block[j]);
      }
    }
  } else {  // taps are the inner dimension: a block holds up to kLanes of them, wanted or not
    for (int64_t c = 0; c < gather.in; ++c, to += width) {
      for (int64_t t = 0; t < gather.tap_count;) {
        const int64_t first = gather.taps[t].weight_offset;
        const int64_t span = smaller(kL, gather.taps[gather.tap_count - 1].weight_offset + 1 - first);
        load_transposed(weight + c * steps.in + first, steps.out, live, span, block);
        for (; t < gather.tap_count && gather.taps[t].weight_offset < first + span; ++t) {
          store(to + t * gather.in * width, block[gather.taps[t].weight_offset - first]);
        }
      }
    }
  }
}

template <typename T>
static void pack_weight(const Conv2dGather& gather, const T* weight, const Conv2dWeightSteps& steps,
                        compute_t<T>* packed, int64_t begin, int64_t end) {
  constexpr int64_t kL = kLanes<compute_t<T>>;
  const int64_t width = tiles<T>(gather.out).channels, per_group = ceil_div(gather.out, width);
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t k0 = tile % per_group * width;
    const T* from = weight + tile / per_group * steps.group + k0 * steps.out;
    for (int64_t lane = 0; lane < width; lane += kL) {
      const int64_t live = larger<int64_t>(0, smaller(kL, gather.out - k0 - lane));
      pack_lanes(gather, from + (live > 0 ? lane : 0) * steps.out, steps, live, width,
                 packed + tile * gather.gemm_k() * width + lane);
    }
  }
}

// The pixel a flat position of the gather stands for.
struct Pixel {
  int64_t n, i, j;
};

static Pixel pixel_at(const Conv2dGather& gather, int64_t flat) {
  const int64_t per_image = gather.rows * gather.cols;
  return {flat / per_image, flat % per_image / gather.cols, flat % gather.cols};
}

static void advance(const Conv2dGather& gather, Pixel& pixel) {
  if (++pixel.j < gather.cols) return;
  pixel.j = 0;
  if (++pixel.i < gather.rows) return;
  pixel.i = 0;
  ++pixel.n;
}

// Copies `run` values, or as many zeros where there is no source, to step k of panel row `a`: kGemmDepth
// steps of a row lie together, then come those of the tile's other rows.
template <typename C>
CNNEXT_INLINE void copy_run(const C* from, C* a, int64_t k, int64_t run) {
  constexpr int64_t kBlock = kGemmRows * kGemmDepth;
  C* to = a + k / kGemmDepth * kBlock + k % kGemmDepth;
  if (k % kGemmDepth == 0 && run % kGemmDepth == 0) {
    for (int64_t i = 0; i < run; i += kGemmDepth, to += kBlock) {
#pragma GCC unroll 8
      for (int64_t l = 0; l < kGemmDepth; l += kLanes<C>) store(to + l, from ? load(from + i + l) : Vec<C>{});
    }
    return;
  }
  for (int64_t i = 0; i < run; ++i) {
    *to++ = from ? from[i] : C{0};
    if ((k + i) % kGemmDepth == kGemmDepth - 1) to += kBlock - kGemmDepth;
  }
}

// Panel row of one pixel: steps [k0, k1) of its patch, taps in order, channels of the group inside a tap.
template <typename C>
static void pack_pixel(const Conv2dGather& gather, const C* source, int64_t group, const Pixel& pixel,
                       int64_t k0, int64_t k1, C* a) {
  const int64_t channels = gather.groups * gather.in;
  const C* image = source + pixel.n * gather.source_h * gather.source_w * channels + group * gather.in;
  const int64_t h0 = pixel.i * gather.stride_h, w0 = pixel.j * gather.stride_w;
  int64_t tap = k0 / gather.in, c0 = k0 % gather.in;
  for (int64_t k = k0; k < k1; ++tap, c0 = 0) {
    const int64_t run = smaller(gather.in - c0, k1 - k);
    const int64_t h = h0 + gather.taps[tap].dh, w = w0 + gather.taps[tap].dw;
    const bool inside = h >= 0 && h < gather.source_h && w >= 0 && w < gather.source_w;
    copy_run(inside ? image + (h * gather.source_w + w) * channels + c0 : nullptr, a, k - k0, run);
    k += run;
  }
}

}  // namespace cnnext::CNNEXT_ISA
