// conv2d by implicit GEMM: forward, and the input gradient as gathers with other taps.
//
// Idea: gemm_m = output pixels, gemm_n = output channels in the vector lanes, gemm_k = taps × input channels.
// The matrix of patches exists one L2-sized panel at a time: kPanelTiles · kGemmRows pixels by kDepthBlock
// steps are copied together (padding as zeros, stride and dilation by address) and then meet every tile of
// packed weights.
#include "conv2d_kernel.h"

#include "conv2d_weight_kernel.h"
#include "simd/gemm_microkernel.h"

namespace cnnext::CNNEXT_ISA {

inline constexpr int64_t kPanelTiles = 8;    // a weight tile read from L2 is used for so many register tiles
inline constexpr int64_t kDepthBlock = 512;  // 8 · 14 pixels · 512 steps · 4 bytes = 229 KB of L2
// Steps summed in registers before they join the total in memory: a longer chain of float additions loses
// bits (at 4608 steps five times as many), a shorter one costs loads and stores (28 of each to 64 · 28 FMAs).
inline constexpr int64_t kChain = 64;
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

template <typename T>
static void to_channels_last(const T* x, compute_t<T>* y, int64_t c, int64_t h, int64_t w, bool channels_last,
                             int64_t begin, int64_t end) {
  using C = compute_t<T>;
  constexpr int64_t kBlock = 16;  // a block's 16 rows of x and of y share L1
  for (int64_t row = begin; row < end; ++row) {
    C* y_row = y + row * w * c;
    if (channels_last) {
      for (int64_t i = 0; i < w * c; i += kLanes<C>)
        store_first(y_row + i, load_first(x + row * w * c + i, w * c - i), w * c - i);
      continue;
    }
    const T* x_row = x + (row / h * c * h + row % h) * w;
    for (int64_t c0 = 0; c0 < c; c0 += kBlock) {
      const int64_t c1 = smaller(c, c0 + kBlock);
      for (int64_t w0 = 0; w0 < w; w0 += kBlock) {
        const int64_t w1 = smaller(w, w0 + kBlock);
        for (int64_t j = w0; j < w1; ++j) {
          for (int64_t i = c0; i < c1; ++i) y_row[j * c + i] = to_compute(x_row[i * h * w + j]);
        }
      }
    }
  }
}

template <typename T>
static void pack_weight(const Conv2dGather& gather, const T* weight, int64_t group_step, int64_t out_step,
                        int64_t in_step, compute_t<T>* packed, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  constexpr int64_t kStreams = 16;  // rows of the weight read at once: more would fight for the sets of L1
  const int64_t width = tiles<T>(gather.out).channels, per_group = ceil_div(gather.out, width);
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t k0 = tile % per_group * width;
    const T* from = weight + tile / per_group * group_step + k0 * out_step;
    C* to = packed + tile * gather.gemm_k() * width;
    for (int64_t lane0 = 0; lane0 < width; lane0 += kStreams) {
      const int64_t lane1 = smaller(width, lane0 + kStreams), live = smaller(lane1, gather.out - k0);
      const auto pack_row = [&](int64_t t, int64_t c) {
        const T* value = from + c * in_step + gather.taps[t].weight_offset;
        C* row = to + (t * gather.in + c) * width;
        for (int64_t lane = lane0; lane < live; ++lane) row[lane] = to_compute(value[lane * out_step]);
        for (int64_t lane = larger(lane0, live); lane < lane1; ++lane) row[lane] = 0;
      };
      // In the order of the weight's memory: taps are the inner dimension of [k, c, r, s], channels of [k, r,
      // s, c].
      if (in_step == 1) {
        for (int64_t t = 0; t < gather.tap_count; ++t) {
          for (int64_t c = 0; c < gather.in; ++c) pack_row(t, c);
        }
      } else {
        for (int64_t c = 0; c < gather.in; ++c) {
          for (int64_t t = 0; t < gather.tap_count; ++t) pack_row(t, c);
        }
      }
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

// Adds the bias and stores sums[pixel][lane] as the caller's output. This is the one place where a finished
// tile leaves the GEMM, and so where residual, ReLU and statistics belong.
template <typename T>
static void store_tile(const Conv2dGather& gather, const compute_t<T>* sums, int64_t width, int64_t first,
                       int64_t count, int64_t channel, int64_t live, const T* bias, T* out) {
  using C = compute_t<T>;
  const int64_t channels = gather.groups * gather.out, plane = gather.out_h * gather.out_w;
  Pixel pixel = pixel_at(gather, first);
  for (int64_t m = 0; m < count; ++m, advance(gather, pixel)) {
    const int64_t at =
        (gather.row0 + pixel.i * gather.row_step) * gather.out_w + gather.col0 + pixel.j * gather.col_step;
    const C* row = sums + m * width;
    if (gather.out_channels_last) {
      T* y = out + (pixel.n * plane + at) * channels + channel;
      for (int64_t l = 0; l < live; l += kLanes<C>) {
        const Vec<C> added = bias ? load_first(bias + channel + l, live - l) : Vec<C>{};
        store_first(y + l, load_first(row + l, live - l) + added, live - l);
      }
    } else {
      T* y = out + (pixel.n * channels + channel) * plane + at;
      for (int64_t l = 0; l < live; ++l) {
        y[l * plane] = from_compute<T>(row[l] + (bias ? to_compute(bias[channel + l]) : C{0}));
      }
    }
  }
}

template <typename T>
static int64_t gather_scratch(const Conv2dGather& gather) {
  const int64_t width = tiles<T>(gather.out).channels, channels = round_up(gather.out, width);
  return kTaskPixels * (round_up(smaller(gather.gemm_k(), kDepthBlock), int64_t{kGemmDepth}) + channels);
}

template <typename T>
static void gather(const Conv2dGather& gather, const compute_t<T>* source, const compute_t<T>* packed,
                   const T* bias, T* out, compute_t<T>* scratch, int64_t group, int64_t first,
                   int64_t tile_begin, int64_t tile_end) {
  using C = compute_t<T>;
  const int64_t width = tiles<T>(gather.out).channels, per_group = ceil_div(gather.out, width);
  const int64_t count = smaller(kTaskPixels, gather.pixels() - first), depth_all = gather.gemm_k();
  const int64_t panel_row = round_up(smaller(depth_all, kDepthBlock), int64_t{kGemmDepth}) * kGemmRows;
  const int64_t chain = depth_all <= kChain ? kChain / 2 : kChain;
  C* panel = scratch;
  C* sums = panel + panel_row * kPanelTiles;  // [tile][pixel][lane]
  for (int64_t k0 = 0; k0 < depth_all; k0 += kDepthBlock) {
    const int64_t depth = smaller(kDepthBlock, depth_all - k0);
    Pixel pixel = pixel_at(gather, first);
    for (int64_t m = 0; m < count; ++m, advance(gather, pixel)) {
      C* a = panel + m / kGemmRows * panel_row + m % kGemmRows * kGemmDepth;
      pack_pixel(gather, source, group, pixel, k0, k0 + depth, a);
    }
    for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
      const C* b = packed + ((group * per_group + tile) * depth_all + k0) * width;
      C* c = sums + tile * kTaskPixels * width;
      for (int64_t m = 0; m < count; m += kGemmRows) {
        const C* a = panel + m / kGemmRows * panel_row;
        for (int64_t k = 0; k < depth; k += chain) {
          const int64_t steps = smaller(chain, depth - k);
          if (width == kLanes<C>) {
            gemm_rows<C, 1>(count - m, a + k * kGemmRows, b + k * width, c + m * width, width, steps,
                            k0 + k > 0);
          } else {
            gemm_rows<C, 2>(count - m, a + k * kGemmRows, b + k * width, c + m * width, width, steps,
                            k0 + k > 0);
          }
        }
      }
    }
  }
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    C* c = sums + tile * kTaskPixels * width;
    if (depth_all == 0) {
      for (int64_t i = 0; i < count * width; ++i) c[i] = 0;
    }
    const int64_t live = smaller(width, gather.out - tile * width);
    store_tile<T>(gather, c, width, first, count, group * gather.out + tile * width, live, bias, out);
  }
}

template <typename T>
const Conv2dKernels<T>& conv2d_kernels() {
  static constexpr Conv2dKernels<T> table{tiles<T>,         to_channels_last<T>, pack_weight<T>,
                                          gather<T>,        gather_scratch<T>,   weight_sums<T>,
                                          weight_reduce<T>, bias_reduce<T>};
  return table;
}

CNNEXT_INSTANTIATE_KERNELS(Conv2dKernels, conv2d_kernels)

}  // namespace cnnext::CNNEXT_ISA
