// conv2d by implicit GEMM: forward, and the input gradient as gathers with other taps.
//
// Idea: gemm_m = output pixels, gemm_n = output channels in the vector lanes, gemm_k = taps × input channels.
// The matrix of patches exists one L2-sized panel at a time: kPanelTiles · kGemmRows pixels by kDepthBlock
// steps are copied together (padding as zeros, stride and dilation by address) and then meet every tile of
// packed weights.
#include "conv2d_kernel.h"

#include "conv2d_pack.h"
#include "conv2d_weight_kernel.h"

namespace cnnext::CNNEXT_ISA {

inline constexpr int64_t kDepthBlock = 512;  // 8 · 14 pixels · 512 steps · 4 bytes = 229 KB of L2
// Steps summed in registers before they join the total in memory: a longer chain of float additions loses
// bits (at 4608 steps five times as many), a shorter one costs loads and stores (28 of each to 64 · 28 FMAs).
// A slice of so many steps of a weight tile, 8 KB, stays in L1 while all rows of the panel meet it.
inline constexpr int64_t kChain = 64;

// Pixels of the output from `first` on that lie at equal distances: to the end of the row, or of the image
// where rows follow each other without a gap.
static int64_t line_length(const Conv2dGather& gather, const Pixel& pixel) {
  const bool gapless = gather.row_step == 1 && gather.col_step == 1 && gather.cols == gather.out_w;
  return gapless ? (gather.rows - pixel.i) * gather.cols - pixel.j : gather.cols - pixel.j;
}

// `count` ≤ kLanes pixels of one line, [pixel][width] in `sums`, as `live` planes of an NCHW output.
template <typename T>
static void store_planes(const compute_t<T>* sums, int64_t width, int64_t count, int64_t live, int64_t step,
                         int64_t plane, const T* bias, T* y) {
  using C = compute_t<T>;
  constexpr int64_t kL = kLanes<C>;
  for (int64_t l0 = 0; l0 < live; l0 += kL) {
    Vec<C> block[kL];
    load_transposed(sums + l0, width, count, kL, block);
    for (int64_t l = 0; l < smaller(kL, live - l0); ++l) {
      const Vec<C> value = block[l] + broadcast(bias ? to_compute(bias[l0 + l]) : C{0});
      T* to = y + (l0 + l) * plane;
      if (step == 1) {
        store_first(to, value, count);
      } else {
        for (int64_t m = 0; m < count; ++m) to[m * step] = from_compute<T>(value[m]);
      }
    }
  }
}

// Adds the bias and stores sums[pixel][lane] as the caller's output. This is the one place where a finished
// tile leaves the GEMM, and so where residual, ReLU and statistics belong.
template <typename T>
static void store_tile(const Conv2dGather& gather, const compute_t<T>* sums, int64_t width, int64_t first,
                       int64_t count, int64_t channel, int64_t live, const T* bias, T* out) {
  using C = compute_t<T>;
  const int64_t channels = gather.groups * gather.out, plane = gather.out_h * gather.out_w;
  const T* b = bias ? bias + channel : nullptr;
  for (int64_t m = 0; m < count;) {
    const Pixel pixel = pixel_at(gather, first + m);
    const int64_t line = smaller(count - m, line_length(gather, pixel));
    const int64_t at =
        (gather.row0 + pixel.i * gather.row_step) * gather.out_w + gather.col0 + pixel.j * gather.col_step;
    const C* row = sums + m * width;
    if (gather.out_channels_last) {
      T* y = out + (pixel.n * plane + at) * channels + channel;
      for (int64_t i = 0; i < line; ++i, row += width, y += gather.col_step * channels) {
        for (int64_t l = 0; l < live; l += kLanes<C>) {
          const Vec<C> added = b ? load_first(b + l, live - l) : Vec<C>{};
          store_first(y + l, load(row + l) + added, live - l);
        }
      }
    } else {
      T* y = out + (pixel.n * channels + channel) * plane + at;
      for (int64_t i = 0; i < line; i += kLanes<C>) {
        store_planes(row + i * width, width, smaller<int64_t>(kLanes<C>, line - i), live, gather.col_step,
                     plane, b, y + i * gather.col_step);
      }
    }
    m += line;
  }
}

// Weights that outgrow L2 come from far away: the next slice is asked for while this one is multiplied.
template <typename C>
CNNEXT_INLINE void prefetch_values(const C* from, int64_t count) {
  constexpr int64_t kLine = 64 / sizeof(C);
  for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(from + i);
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
      for (int64_t k = 0; k < depth; k += chain) {
        const int64_t steps = smaller(chain, depth - k);
        const C* next = b + (k + steps) * width;
        const int64_t share = ceil_div(chain * width, ceil_div(count, int64_t{kGemmRows}));
        for (int64_t m = 0; m < count; m += kGemmRows, next += share) {
          prefetch_values(next, share);
          const C* a = panel + m / kGemmRows * panel_row + k * kGemmRows;
          if (width == kLanes<C>) {
            gemm_rows<C, 1>(count - m, a, b + k * width, c + m * width, width, steps, k0 + k > 0);
          } else {
            gemm_rows<C, 2>(count - m, a, b + k * width, c + m * width, width, steps, k0 + k > 0);
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
  static constexpr Conv2dKernels<T> table{tiles<T>,          to_channels_last<T>, pack_weight<T>,  gather<T>,
                                          gather_scratch<T>, weight_sums<T>,      weight_reduce<T>};
  return table;
}

CNNEXT_INSTANTIATE_KERNELS(Conv2dKernels, conv2d_kernels)

}  // namespace cnnext::CNNEXT_ISA
