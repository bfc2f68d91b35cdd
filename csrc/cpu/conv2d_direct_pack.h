// The direct convolution's copies: a band of an image into zero-padded rows of the compute type, and results
// out of a buffer into the image. They absorb layout, padding, stride and 16-bit storage, so that the loops
// in between know one layout and no edges.
#pragma once

#include "batch_norm_relu.h"
#include "conv2d_direct_plan.h"
#include "simd/transpose.h"

namespace cnnext::CNNEXT_ISA {

// Element (c, h, w) of an image in any of the layouts is data[c·channel + h·row + w·col].
template <typename T>
struct ImageView {
  T* data;
  int64_t channel, row, col;
};

template <typename T>
CNNEXT_INLINE ImageView<T> image_view(T* image, int64_t channels, int64_t h, int64_t w, bool channels_last) {
  return channels_last ? ImageView<T>{image, 1, w * channels, channels} : ImageView<T>{image, h * w, w, 1};
}

// The fills and copies below write whole vectors: up to kLanes − 1 values past the end, which is the next
// row, to be written later, or the slack that every buffer has.
template <typename C>
CNNEXT_INLINE void fill_zero(C* to, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes<C>) store(to + i, Vec<C>{});
}

template <typename T, typename Map, typename C = compute_t<T>>
CNNEXT_INLINE void copy_row(const T* from, int64_t step, C* to, int64_t count, const Map& map) {
  if (step == 1) {
    for (int64_t i = 0; i < count; i += kLanes<C>)
      store(to + i, map_first<C>(load_first(from + i, count - i), count - i, map));
  } else if (step == 2) {
    for (int64_t i = 0; i < count; i += kLanes<C>) {
      const int64_t rest = 2 * (count - i) - 1;
      const Vec<C> low = load_first(from + 2 * i, rest);
      const Vec<C> high = load_first(from + 2 * i + kLanes<C>, larger<int64_t>(0, rest - kLanes<C>));
      store(to + i, map_first<C>(even_lanes<C>(low, high), count - i, map));
    }
  } else {
    for (int64_t i = 0; i < count; i += kLanes<C>) {
      Vec<C> v{};
      for (int j = 0; j < kLanes<C> && i + j < count; ++j) v[j] = to_compute(from[(i + j) * step]);
      store(to + i, map_first<C>(v, count - i, map));
    }
  }
}

// count pixels of `channels` neighbouring values each, pixel_step apart, into rows of their own, `plane`
// apart.
template <typename T, typename Source, typename C = compute_t<T>>
static void split_channels(const T* from, int64_t pixel_step, C* to, int64_t plane, int64_t channels,
                           int64_t count, const Source& source) {
  if (channels * 4 <= kLanes<C>) {
    for (int64_t c = 0; c < channels; ++c)
      copy_row(from + c, pixel_step, to + c * plane, count, source.of_channel(c));
    return;
  }
  for (int64_t c = 0; c < channels; c += kLanes<C>) {
    const int64_t rest = channels - c;
    const auto map = source.of_channels(c, rest);
    for (int64_t i = 0; i < count; i += kLanes<C>) {
      Vec<C> square[kLanes<C>] = {};
      for (int j = 0; j < kLanes<C> && i + j < count; ++j)
        square[j] = map_first<C>(load_first(from + (i + j) * pixel_step + c, rest), rest, map);
      transpose<C>(square);
      for (int j = 0; j < kLanes<C> && j < rest; ++j) store(to + (c + j) * plane + i, square[j]);
    }
  }
}

// One source row into the padded row of every channel, split by column phase: phase f holds the columns
// first + f, first + f + step, … What lies outside the image is zero; without `edges` it is so already, from
// a band that lay in the same place (the copies past a row's end write zeros too).
template <typename T, typename Source, typename C = compute_t<T>>
static void pack_row(const GatherPlan& plan, const ImageView<const T>& image, int64_t row, bool edges, C* to,
                     const Source& source) {
  const int64_t step = plan.w.source_step, pitch = plan.phase_pitch;
  const bool inside = row >= 0 && row < plan.h.source;
  for (int64_t f = 0; f < step; ++f, to += pitch) {
    const int64_t col = plan.w.first_offset() + f;  // of position 0
    const int64_t begin = inside ? smaller(pitch, larger<int64_t>(0, -floor_div(col, step))) : pitch;
    const int64_t end = smaller(pitch, larger(begin, -floor_div(col - plan.w.source, step)));
    for (int64_t c = 0; edges && c < plan.in; ++c) fill_zero(to + c * plan.plane, begin);
    if (end > begin) {
      const T* from = image.data + row * image.row + (col + begin * step) * image.col;
      if (plan.source_channels_last) {
        split_channels(from, step * image.col, to + begin, plan.plane, plan.in, end - begin, source);
      } else {
        for (int64_t c = 0; c < plan.in; ++c) {
          copy_row(from + c * image.channel, step, to + c * plan.plane + begin, end - begin,
                   source.of_channel(c));
        }
      }
    }
    for (int64_t c = 0; edges && c < plan.in; ++c) fill_zero(to + c * plan.plane + end, pitch - end);
  }
}

// The same for depthwise lanes: a pixel is one vector of up to kLanes channels.
template <typename T, typename Source, typename C = compute_t<T>>
static void pack_row_of_vectors(const GatherPlan& plan, const ImageView<const T>& image, int64_t channels,
                                int64_t row, bool edges, C* to, const Source& source) {
  const auto map = source.of_channels(0, channels);
  const int64_t pitch = plan.row_pitch / kLanes<C>, col = plan.w.first_offset();
  const bool inside = row >= 0 && row < plan.h.source;
  const int64_t begin = inside ? smaller(pitch, larger<int64_t>(0, -col)) : pitch;
  const int64_t end = smaller(pitch, larger(begin, plan.w.source - col));
  if (edges) fill_zero(to, begin * kLanes<C>);
  const T* from = image.data + row * image.row + (col + begin) * image.col;
  for (int64_t i = begin; i < end; ++i, from += image.col)
    store(to + i * kLanes<C>, map_first<C>(load_first(from, channels), channels, map));
  if (edges) fill_zero(to + end * kLanes<C>, (pitch - end) * kLanes<C>);
}

// The band of one step (a group, or a vector of depthwise channels) whose first output row is `first`; the
// source begins at the step's first channel.
template <typename T, typename Source, typename C = compute_t<T>>
static void pack_band(const GatherPlan& plan, const ImageView<const T>& image, int64_t step, int64_t first,
                      int64_t rows, bool edges, C* to, const Source& source) {
  for (int64_t row = 0; row < plan.source_rows(rows); ++row, to += plan.row_pitch) {
    const int64_t source_row = first * plan.h.source_step + plan.h.first_offset() + row;
    if (plan.lanes == DirectLanes::depthwise) {
      pack_row_of_vectors(plan, image, plan.groups - step * plan.vector, source_row, edges, to, source);
    } else {
      pack_row(plan, image, source_row, edges, to, source);
    }
  }
}

// ---- results ----

// buffer[channel][row][col] into the image.
template <typename T, typename C = compute_t<T>>
static void store_planes(const C* buffer, int64_t channel_pitch, int64_t row_pitch, int64_t channels,
                         int64_t rows, int64_t cols, const ImageView<T>& image) {
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t row = 0; row < rows; ++row) {
      const C* from = buffer + c * channel_pitch + row * row_pitch;
      T* to = image.data + c * image.channel + row * image.row;
      if (image.col == 1) {
        for (int64_t i = 0; i < cols; i += kLanes<C>) store_first(to + i, load(from + i), cols - i);
      } else {
        for (int64_t i = 0; i < cols; ++i) to[i * image.col] = from_compute<T>(from[i]);
      }
    }
  }
}

// buffer[row][col][channel], a pixel being `width` values wide, into the image.
template <typename T, typename C = compute_t<T>>
static void store_pixels(const C* buffer, int64_t width, int64_t row_pitch, int64_t channels, int64_t rows,
                         int64_t cols, const ImageView<T>& image) {
  if (image.row == cols * image.col && row_pitch == cols * width) cols *= rows, rows = 1;
  for (int64_t row = 0; row < rows; ++row, buffer += row_pitch) {
    T* to = image.data + row * image.row;
    for (int64_t c = 0; c < channels; c += kLanes<C>) {
      const int64_t rest = channels - c;
      if (image.channel == 1) {
        for (int64_t i = 0; i < cols; ++i)
          store_first(to + i * image.col + c, load(buffer + i * width + c), rest);
        continue;
      }
      for (int64_t i = 0; i < cols; i += kLanes<C>) {
        Vec<C> square[kLanes<C>];
        for (int j = 0; j < kLanes<C>; ++j) square[j] = load(buffer + (i + j) * width + c);
        transpose<C>(square);
        for (int j = 0; j < kLanes<C> && j < rest; ++j) {
          T* target = to + (c + j) * image.channel + i * image.col;
          if (image.col == 1) {
            store_first(target, square[j], cols - i);
          } else {
            for (int64_t l = 0; l < kLanes<C> && i + l < cols; ++l)
              target[l * image.col] = from_compute<T>(square[j][l]);
          }
        }
      }
    }
  }
}

}  // namespace cnnext::CNNEXT_ISA
