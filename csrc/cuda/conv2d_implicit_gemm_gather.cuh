// Forward and input gradient as one implicit GEMM, a gather: M are pixels of the destination, N its channels,
// gemm_k the products of each, (channel, tap) for NCHW sources and (tap, channel) for NHWC ones, so that
// neighbours along gemm_k are neighbours in the weight too, and in an NHWC source.
//
// Here is what a block copies: tables of taps, pixels of the source, weights.
#pragma once

#include "conv2d_implicit_gemm_tile.cuh"
#include "conv2d_layout.cuh"
#include "conv2d_prologue.cuh"

namespace cnnext::implicit_gemm {

struct GemmAxis {  // AxisPhase in the 32 bits that suffice inside an image
  int count = 0, first = 0, first_step = 1, step = 1, base = 0, increment = 0, taps = 0, tap = 0,
      tap_step = 1;
  Divisor by_taps, by_count;

  GemmAxis() = default;
  explicit GemmAxis(const AxisPhase& phase)
      : count(static_cast<int>(phase.count)),
        first(static_cast<int>(phase.first)),
        first_step(static_cast<int>(phase.first_step)),
        step(static_cast<int>(phase.step)),
        base(static_cast<int>(phase.base)),
        increment(static_cast<int>(phase.increment)),
        taps(static_cast<int>(phase.taps)),
        tap(static_cast<int>(phase.tap)),
        tap_step(static_cast<int>(phase.tap_step)),
        by_taps(larger<int64_t>(phase.taps, 1)),
        by_count(larger<int64_t>(phase.count, 1)) {}
};

enum class StoreOrder {
  scalar,
  along_channels,
  along_pixels
};  // the last two: 16 bytes of accumulators at once

struct GatherProblem {
  int images, groups;
  int in, out;  // channels of a group of the source and of the destination
  int source_h, source_w;
  bool channels_last;  // both images
  StoreOrder store;
  ImageStrides source, destination;
  int64_t weight_group, weight_out;  // steps of the weight
  int weight_in, weight_r, weight_s;
  Divisor by_in;
  int phases_h, phases_w;
  GemmAxis rows[kMaxPhases], cols[kMaxPhases];
};

// What one step along gemm_k reads: {offset from a pixel's first source value, rows and columns from it,
// offset from an output channel's first weight}. Behind the last step the row is outside every image and the
// weight −1.
using TapEntry = device::Vector<int, 4>;

// Channel of the group and tap of the phase at a step.
struct TapPlace {
  int channel, t, u;

  CNNEXT_DEVICE TapPlace(const GatherProblem& problem, const GemmAxis& rows, const GemmAxis& cols, int kk) {
    const auto step = static_cast<uint32_t>(kk);
    uint32_t c, tap_r, tap_s;
    if (problem.channels_last) {
      const uint32_t tap = problem.by_in.quotient(step);
      c = step - tap * problem.by_in.divisor;
      tap_r = cols.by_taps.quotient(tap), tap_s = tap - tap_r * cols.by_taps.divisor;
    } else {
      const uint32_t row = cols.by_taps.quotient(step);
      tap_s = step - row * cols.by_taps.divisor;
      c = rows.by_taps.quotient(row), tap_r = row - c * rows.by_taps.divisor;
    }
    channel = static_cast<int>(c), t = static_cast<int>(tap_r), u = static_cast<int>(tap_s);
  }
};

CNNEXT_DEVICE TapEntry tap_entry(const GatherProblem& problem, const GemmAxis& rows, const GemmAxis& cols,
                                 const TapPlace& tap, bool exists) {
  if (!exists) return {{0, kOutside, 0, -1}};
  const int dh = tap.t * rows.increment, dw = tap.u * cols.increment;
  const int source = tap.channel * static_cast<int>(problem.source.c) +
                     dh * static_cast<int>(problem.source.h) + dw * static_cast<int>(problem.source.w);
  const int r = rows.tap + tap.t * rows.tap_step, s = cols.tap + tap.u * cols.tap_step;
  return {{source, dh, dw, tap.channel * problem.weight_in + r * problem.weight_r + s * problem.weight_s}};
}

// A destination pixel's place in the source, before taps; `pixel` points there even where that is outside.
template <class T>
struct SourcePixel {
  const T* pixel;
  int h, w;

  CNNEXT_DEVICE void find(const GatherProblem& problem, const GemmAxis& rows, const GemmAxis& cols,
                          const T* source, int group, int m) {
    const uint32_t line = cols.by_count.quotient(static_cast<uint32_t>(m));
    const uint32_t image = rows.by_count.quotient(line);
    const int j = m - static_cast<int>(line) * cols.count;
    const int i = static_cast<int>(line - image * rows.by_count.divisor);
    h = i * rows.step + rows.base, w = j * cols.step + cols.base;
    pixel = source + image * problem.source.n + int64_t{group} * problem.in * problem.source.c +
            h * problem.source.h + w * problem.source.w;
    if (image >= static_cast<uint32_t>(problem.images)) h = kOutside;
  }
  CNNEXT_DEVICE bool holds(const GatherProblem& problem, const TapEntry& tap) const {
    return static_cast<unsigned>(h + tap[1]) < static_cast<unsigned>(problem.source_h) &&
           static_cast<unsigned>(w + tap[2]) < static_cast<unsigned>(problem.source_w);
  }
};

template <class Config, class T, Load kLoad>
struct SourceCopy;

// Lanes along the pixels: in NCHW they lie side by side.
template <class Config, class T>
struct SourceCopy<Config, T, Load::scalar> : ScalarCopy<Config, T, Config::kTileM, false> {
  SourcePixel<T> place;
  uint32_t inside = 0;  // bit i: value i was read

  CNNEXT_DEVICE SourceCopy(const GatherProblem& problem, const GemmAxis& rows, const GemmAxis& cols,
                           const T* source, int group, int m0) {
    place.find(problem, rows, cols, source, group, m0 + this->lane());
  }
  CNNEXT_DEVICE void load(const GatherProblem& problem, const TapEntry* taps) {
    inside = 0;
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) {
      const TapEntry tap = device::load_vector<4>(taps[this->row(i)].values);
      this->values[i] = device::from_compute<T>(0);
      if (!place.holds(problem, tap)) continue;
      this->values[i] = place.pixel[tap[0]];
      inside |= 1u << i;
    }
  }
  CNNEXT_DEVICE void activate(const ChannelNorm<compute_t<T>>* norms) {
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) {
      if ((inside >> i & 1) != 0) this->values[i] = norms[this->row(i)].activated(this->values[i]);
    }
  }
};

// Lanes along gemm_k: in NHWC the channels of a row of taps lie side by side.
template <class Config, class T>
struct SourceCopy<Config, T, Load::scalar_k> : ScalarCopy<Config, T, Config::kTileM, true> {
  SourcePixel<T> place[ScalarCopy<Config, T, Config::kTileM, true>::kCount];
  uint32_t inside = 0;  // bit i: value i was read

  CNNEXT_DEVICE SourceCopy(const GatherProblem& problem, const GemmAxis& rows, const GemmAxis& cols,
                           const T* source, int group, int m0) {
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) {
      place[i].find(problem, rows, cols, source, group, m0 + this->row(i));
    }
  }
  CNNEXT_DEVICE void load(const GatherProblem& problem, const TapEntry* taps) {
    const TapEntry tap = device::load_vector<4>(taps[this->lane()].values);
    inside = 0;
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) {
      this->values[i] = device::from_compute<T>(0);
      if (!place[i].holds(problem, tap)) continue;
      this->values[i] = place[i].pixel[tap[0]];
      inside |= 1u << i;
    }
  }
  CNNEXT_DEVICE void activate(const ChannelNorm<compute_t<T>>* norms) {
    if (inside == 0) return;  // also behind the last step, where there are no norms
    const ChannelNorm<compute_t<T>> norm = norms[this->lane()];
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) {
      if ((inside >> i & 1) != 0) this->values[i] = norm.activated(this->values[i]);
    }
  }
};

// NHWC: 16 bytes of channels, two lanes a pixel, so that a pixel's sector is read whole.
template <class Config, class T>
struct SourceCopy<Config, T, Load::vector_k> : VectorCopy<Config, T, Config::kTileM, true> {
  SourcePixel<T> place[VectorCopy<Config, T, Config::kTileM, true>::kCount];
  uint32_t inside = 0;  // bit i: vector i was read

  CNNEXT_DEVICE SourceCopy(const GatherProblem& problem, const GemmAxis& rows, const GemmAxis& cols,
                           const T* source, int group, int m0) {
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) {
      place[i].find(problem, rows, cols, source, group, m0 + this->row(i));
    }
  }
  CNNEXT_DEVICE void load(const GatherProblem& problem, const TapEntry* taps) {
    const TapEntry tap = device::load_vector<4>(taps[this->vector()].values);
    inside = 0;
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) {
      this->values[i] = {};
      if (!place[i].holds(problem, tap)) continue;
      this->values[i] = device::load_vector_readonly<this->kVector>(place[i].pixel + tap[0]);
      inside |= 1u << i;
    }
  }
  CNNEXT_DEVICE void activate(const ChannelNorm<compute_t<T>>* norms) {
    if (inside == 0) return;  // also behind the last step, where there are no norms
#pragma unroll
    for (int j = 0; j < this->kVector; ++j) {
      const ChannelNorm<compute_t<T>> norm = norms[this->vector() + j];
#pragma unroll
      for (int i = 0; i < this->kCount; ++i) {
        if ((inside >> i & 1) != 0) this->values[i][j] = norm.activated(this->values[i][j]);
      }
    }
  }
};

template <class Config, class T, Load kLoad>
struct WeightCopy;

// Rows behind the last output channel copy the last: what is made of them is not stored.
CNNEXT_DEVICE int weight_row(const GatherProblem& problem, int n) {
  return smaller(n, problem.out - 1) * static_cast<int>(problem.weight_out);
}

// Lanes along gemm_k: in the order of the weight's own layout they lie side by side (forward), or nearly.
template <class Config, class T>
struct WeightCopy<Config, T, Load::scalar> : ScalarCopy<Config, T, Config::kTileN, true> {
  const T* weight;  // of the group
  int rows[ScalarCopy<Config, T, Config::kTileN, true>::kCount];

  CNNEXT_DEVICE WeightCopy(const GatherProblem& problem, const T* w, int group, int n0)
      : weight(w + group * problem.weight_group) {
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) rows[i] = weight_row(problem, n0 + this->row(i));
  }
  CNNEXT_DEVICE void load(const TapEntry* taps) {
    const int offset = taps[this->lane()][3];
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) {
      this->values[i] = device::from_compute<T>(0);
      if (offset >= 0) this->values[i] = weight[rows[i] + offset];
    }
  }
};

template <class Config, class T>
struct WeightCopy<Config, T, Load::vector_k> : VectorCopy<Config, T, Config::kTileN, true> {
  const T* weight;
  int rows[VectorCopy<Config, T, Config::kTileN, true>::kCount];

  CNNEXT_DEVICE WeightCopy(const GatherProblem& problem, const T* w, int group, int n0)
      : weight(w + group * problem.weight_group) {
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) rows[i] = weight_row(problem, n0 + this->row(i));
  }
  CNNEXT_DEVICE void load(const TapEntry* taps) {
    const int offset = taps[this->vector()][3];
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) {
      this->values[i] = {};
      if (offset >= 0)
        this->values[i] = device::load_vector_readonly<this->kVector>(weight + rows[i] + offset);
    }
  }
};

// Output channels are contiguous: an input gradient with a channels_last weight.
template <class Config, class T>
struct WeightCopy<Config, T, Load::vector_extent> : VectorCopy<Config, T, Config::kTileN, false> {
  const T* weight;

  CNNEXT_DEVICE WeightCopy(const GatherProblem& problem, const T* w, int group, int n0)
      : weight(w + group * problem.weight_group + smaller(n0 + this->vector(), problem.out - this->kVector)) {
  }

  CNNEXT_DEVICE void load(const TapEntry* taps) {
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) {
      const int offset = taps[this->row(i)][3];
      this->values[i] = {};
      if (offset >= 0) this->values[i] = device::load_vector_readonly<this->kVector>(weight + offset);
    }
  }
};

}  // namespace cnnext::implicit_gemm
