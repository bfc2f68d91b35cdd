// The direct convolution's tiles for small images in large batches: the lanes of a vector hold the same pixel
// of as many images.
//
// Idea: a row of 10 pixels fills 10 of 16 lanes, and the zeros around a small image are a large part of what
// the other tiles multiply. With lanes over images no lane is idle, every load is aligned, and the taps that
// lie outside the image are left out: rows exactly, columns for whole tiles. Limit: images are transposed on
// their way in and out, and those of a vector must stay in L2; NCHW and stride 1 only.
#pragma once

#include "conv2d_direct_pack.h"
#include "conv2d_direct_tile.h"

namespace cnnext::CNNEXT_ISA {

// Indices [begin, end) of the taps that meet the source from some of `count` positions from `first` on.
struct TapRange {
  int64_t begin, end;
};

CNNEXT_INLINE TapRange taps_inside(const GatherAxis& axis, int64_t first, int64_t count) {
  TapRange range{axis.taps, 0};
  for (int64_t t = 0; t < axis.taps; ++t) {
    const int64_t at = first + axis.offset(t);
    if (at + count <= 0 || at >= axis.source) continue;
    range.begin = smaller(range.begin, t);
    range.end = t + 1;
  }
  return range;
}

template <typename C>
struct ImagesJob {
  const GatherPlan& plan;
  const C* source;  // [channel][row][padded column][image], column 0 being that of the first tap
  const C* weight;  // [source channel][tap][channel of the block]
  const C* bias;
  C* totals;  // scratch for the sums of a tile
  C* out;     // [channel of the block][row][column][image]
};

// Output channels of one block by kPixels neighbours of a row. The sums of a few source channels at a time
// are added to `totals`, for the reason that segment_of gives.
template <typename C, int kChannels, int kPixels>
static void images_tile(const ImagesJob<C>& job, int64_t row, int64_t col) {
  const GatherPlan& plan = job.plan;
  const TapRange rows = taps_inside(plan.h, row, 1), cols = taps_inside(plan.w, col, kPixels);
  const int64_t tap_step = (plan.w.reversed ? -plan.w.dilation : plan.w.dilation) * kLanes<C>;
  const int64_t first_col = col + plan.w.offset(cols.begin) - plan.w.first_offset();
  const int64_t segment = ceil_div(segment_of(plan.in * plan.taps()), plan.taps());
  TileJob<C> totals{};
  totals.totals = job.totals;
  const auto bias = [&](int k) { return broadcast(job.bias[k]); };
  Vec<C> sum[kChannels][kPixels] = {};
  for (int64_t in = 0; in < plan.in; ++in) {
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      const C* x =
          job.source + in * plan.plane + (row + plan.h.offset(r)) * plan.row_pitch + first_col * kLanes<C>;
      const C* weight = job.weight + ((in * plan.h.taps + r) * plan.w.taps + cols.begin) * kChannels;
      for (int64_t s = cols.begin; s < cols.end; ++s, x += tap_step, weight += kChannels) {
        Vec<C> pixel[kPixels];
#pragma GCC unroll 8
        for (int i = 0; i < kPixels; ++i) pixel[i] = load(x + i * kLanes<C>);
#pragma GCC unroll 8
        for (int k = 0; k < kChannels; ++k) {
          const Vec<C> w = broadcast(weight[k]);
#pragma GCC unroll 8
          for (int i = 0; i < kPixels; ++i) sum[k][i] = pixel[i] * w + sum[k][i];
        }
      }
    }
    const bool last = in + 1 == plan.in;
    if (last || (in + 1) % segment == 0) end_segment<C>(totals, sum, in < segment, last, bias);
  }
  C* to = job.out + (row * plan.w.out + col) * kLanes<C>;
#pragma GCC unroll 8
  for (int k = 0; k < kChannels; ++k, to += plan.h.out * plan.w.out * kLanes<C>) {
#pragma GCC unroll 8
    for (int i = 0; i < kPixels; ++i) store(to + i * kLanes<C>, sum[k][i]);
  }
}

// The last tile of a row begins early enough to fit: some pixels are computed twice, to the same bits.
template <typename C, int kChannels>
static void images_tiles(const ImagesJob<C>& job) {
  constexpr int kPixels = vectors_per_tile(kChannels), kHalf = kPixels / 2;
  const int64_t cols = job.plan.w.out;
  for (int64_t row = 0; row < job.plan.h.out; ++row) {
    int64_t col = 0;
    for (; cols - col > kHalf && cols >= kPixels; col += kPixels)
      images_tile<C, kChannels, kPixels>(job, row, smaller(col, cols - kPixels));
    for (; cols > col && cols >= kHalf; col += kHalf)
      images_tile<C, kChannels, kHalf>(job, row, smaller(col, cols - kHalf));
    for (; col < cols; ++col) images_tile<C, kChannels, 1>(job, row, col);
  }
}

template <typename C>
static void images_block(const ImagesJob<C>& job, int64_t channels) {
  switch (channels) {
    case 1:
      return images_tiles<C, 1>(job);
    case 2:
      return images_tiles<C, 2>(job);
    case 3:
      return images_tiles<C, 3>(job);
    case 4:
      return images_tiles<C, 4>(job);
    default:
      return images_tiles<C, 6>(job);
  }
}

// `channels` planes of `images` images, image_size apart, into vectors over images with zeros to the left and
// right of each row.
template <typename T, typename Source, typename C = compute_t<T>>
static void pack_images(const GatherPlan& plan, const T* from, int64_t image_size, int64_t images, C* to,
                        const Source& source) {
  const int64_t width = plan.w.source, pixels = plan.h.source * width, pitch = plan.row_pitch / kLanes<C>;
  const int64_t left = -plan.w.first_offset();
  for (int64_t c = 0; c < plan.in; ++c, from += pixels, to += plan.plane) {
    const auto map = source.of_channel(c);
    int64_t row = 0, col = 0;
    for (int64_t i = 0; i < pixels; i += kLanes<C>) {
      Vec<C> square[kLanes<C>] = {};
      for (int64_t j = 0; j < images; ++j) square[j] = map(load_first(from + j * image_size + i, pixels - i));
      transpose<C>(square);
      for (int64_t j = 0; j < smaller<int64_t>(kLanes<C>, pixels - i); ++j) {
        if (left + col >= 0 && left + col < pitch)
          store(to + row * plan.row_pitch + (left + col) * kLanes<C>, square[j]);
        if (++col == width) col = 0, ++row;
      }
    }
  }
}

// from[channel][pixel][image] into planes of `images` images, image_size apart.
template <typename T, typename C = compute_t<T>>
static void unpack_images(const C* from, int64_t channels, int64_t pixels, T* to, int64_t image_size,
                          int64_t images) {
  for (int64_t c = 0; c < channels; ++c, from += pixels * kLanes<C>, to += pixels) {
    for (int64_t i = 0; i < pixels; i += kLanes<C>) {
      Vec<C> square[kLanes<C>] = {};
      for (int64_t j = 0; j < smaller<int64_t>(kLanes<C>, pixels - i); ++j)
        square[j] = load(from + (i + j) * kLanes<C>);
      transpose<C>(square);
      for (int64_t j = 0; j < images; ++j) store_first(to + j * image_size + i, square[j], pixels - i);
    }
  }
}

}  // namespace cnnext::CNNEXT_ISA
