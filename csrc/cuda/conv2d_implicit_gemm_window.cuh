// The weight gradient as an implicit GEMM: what a block copies, gradients and the windows of the input that
// they meet.
//   M: output channel k, N: (c, r, s) for NCHW and (r, s, c) for NHWC, gemm_k: output pixel, over all images.
#pragma once

#include "conv2d_implicit_gemm_tile.cuh"
#include "conv2d_layout.cuh"
#include "conv2d_prologue.cuh"

namespace cnnext::implicit_gemm {

struct WeightProblem {
  int images, groups, group_k, group_c;
  int h, w, p, q, r, s;
  int stride_h, stride_w, pad_h, pad_w, dil_h, dil_w;
  bool channels_last;
  int pixels, pixels_per_split, splits;
  ImageStrides x, grad;
  Divisor by_q, by_p, by_s, by_c, by_r;

  CNNEXT_HOST_DEVICE int gemm_n() const { return group_c * r * s; }
};

struct PixelEntry {  // of the table: offsets of the gradient (−1: no such pixel) and of the window, and its
                     // place
  int64_t grad, window;
  int h, w;
};

CNNEXT_DEVICE PixelEntry pixel_entry(const WeightProblem& problem, int pixel, int end) {
  if (pixel >= end) return {-1, 0, kOutside, 0};
  const uint32_t line = problem.by_q.quotient(static_cast<uint32_t>(pixel));
  const int image = static_cast<int>(problem.by_p.quotient(line));
  const int j = pixel - static_cast<int>(line) * problem.q, i = static_cast<int>(line) - image * problem.p;
  const int h = i * problem.stride_h - problem.pad_h, w = j * problem.stride_w - problem.pad_w;
  return {image * problem.grad.n + i * problem.grad.h + j * problem.grad.w,
          image * problem.x.n + h * problem.x.h + w * problem.x.w, h, w};
}

// Column n of the GEMM: a channel and a tap. Behind the last it is outside every image.
struct WeightColumn {
  int offset, dh, dw;

  // Returns its input channel; of a column behind the last, any.
  CNNEXT_DEVICE int find(const WeightProblem& problem, int group, int n) {
    const auto column = static_cast<uint32_t>(n);
    uint32_t channel, row, tap_s;
    if (problem.channels_last) {
      const uint32_t tap = problem.by_c.quotient(column);
      channel = column - tap * problem.by_c.divisor;
      row = problem.by_s.quotient(tap), tap_s = tap - row * problem.by_s.divisor;
    } else {
      const uint32_t line = problem.by_s.quotient(column);
      tap_s = column - line * problem.by_s.divisor;
      channel = problem.by_r.quotient(line), row = line - channel * problem.by_r.divisor;
    }
    dh = static_cast<int>(row) * problem.dil_h, dw = static_cast<int>(tap_s) * problem.dil_w;
    const int of_all = group * problem.group_c + static_cast<int>(channel);
    offset = of_all * static_cast<int>(problem.x.c) + dh * static_cast<int>(problem.x.h) +
             dw * static_cast<int>(problem.x.w);
    if (n < problem.gemm_n()) return of_all;
    dh = kOutside;
    return 0;
  }
  CNNEXT_DEVICE bool inside(const WeightProblem& problem, const PixelEntry& pixel) const {
    // Both may be kOutside: their sum is the least value of an int.
    return static_cast<unsigned>(pixel.h + dh) < static_cast<unsigned>(problem.h) &&
           static_cast<unsigned>(pixel.w + dw) < static_cast<unsigned>(problem.w);
  }
};

// Both operands are copied in the same way, for gemm_k is that which is contiguous in NCHW, pixels, and the
// extents are in NHWC: channels, and in a row of taps also the next pixel's.
template <class Config, class T, Load kLoad>
struct GradCopy;

// Rows behind the last output channel copy the last: what is made of them is not stored.
CNNEXT_DEVICE int grad_row(const WeightProblem& problem, int m) {
  return smaller(m, problem.group_k - 1) * static_cast<int>(problem.grad.c);
}

template <class Config, class T>
struct GradCopy<Config, T, Load::scalar> : ScalarCopy<Config, T, Config::kTileM, false> {
  const T* grad;  // of the output channel

  CNNEXT_DEVICE GradCopy(const WeightProblem& problem, const T* g, int group, int m0)
      : grad(g + int64_t{group} * problem.group_k * problem.grad.c + grad_row(problem, m0 + this->lane())) {}

  CNNEXT_DEVICE void load(const PixelEntry* pixels) {
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) {
      const int64_t offset = pixels[this->row(i)].grad;
      this->values[i] = device::from_compute<T>(0);
      if (offset >= 0) this->values[i] = grad[offset];
    }
  }
};

template <class Config, class T>
struct GradCopy<Config, T, Load::scalar_k> : ScalarCopy<Config, T, Config::kTileM, true> {
  const T* grad;  // of the group
  int rows[ScalarCopy<Config, T, Config::kTileM, true>::kCount];

  CNNEXT_DEVICE GradCopy(const WeightProblem& problem, const T* g, int group, int m0)
      : grad(g + int64_t{group} * problem.group_k * problem.grad.c) {
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) rows[i] = grad_row(problem, m0 + this->row(i));
  }
  CNNEXT_DEVICE void load(const PixelEntry* pixels) {
    const int64_t offset = pixels[this->lane()].grad;
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) {
      this->values[i] = device::from_compute<T>(0);
      if (offset >= 0) this->values[i] = (grad + offset)[rows[i]];
    }
  }
};

template <class Config, class T>
struct GradCopy<Config, T, Load::vector_extent> : VectorCopy<Config, T, Config::kTileM, false> {
  const T* grad;

  CNNEXT_DEVICE GradCopy(const WeightProblem& problem, const T* g, int group, int m0)
      : grad(g + int64_t{group} * problem.group_k +
             smaller(m0 + this->vector(), problem.group_k - this->kVector)) {}

  CNNEXT_DEVICE void load(const PixelEntry* pixels) {
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) {
      const int64_t offset = pixels[this->row(i)].grad;
      this->values[i] = {};
      if (offset >= 0) this->values[i] = device::load_vector_readonly<this->kVector>(grad + offset);
    }
  }
};

// The norms of the block's columns, where there is a prologue. In shared memory: a thread has no registers
// left for those of its own.
template <class C, int kColumns>
struct ColumnNorms {
  ChannelNorm<C> of[kColumns];

  template <class T>
  CNNEXT_DEVICE void fill(const WeightProblem& problem, const Conv2dPrologue<T>& prologue, int group, int n0,
                          int threads) {
    for (int n = static_cast<int>(threadIdx.x); n < kColumns; n += threads) {
      WeightColumn column;
      of[n] = prologue.of(column.find(problem, group, n0 + n));
    }
  }
};

template <class Config, class T, Load kLoad>
struct WindowCopy;

template <class Config, class T>
struct WindowCopy<Config, T, Load::scalar> : ScalarCopy<Config, T, Config::kTileN, false> {
  using Norms = ColumnNorms<compute_t<T>, Config::kTileN>;
  const T* x;
  WeightColumn column;
  uint32_t inside = 0;  // bit i: value i was read

  CNNEXT_DEVICE WindowCopy(const WeightProblem& problem, const T* x_, int group, int n0) : x(x_) {
    column.find(problem, group, n0 + this->lane());
  }
  CNNEXT_DEVICE void load(const WeightProblem& problem, const PixelEntry* pixels) {
    inside = 0;
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) {
      const PixelEntry pixel = pixels[this->row(i)];
      this->values[i] = device::from_compute<T>(0);
      if (!column.inside(problem, pixel)) continue;
      this->values[i] = (x + pixel.window)[column.offset];
      inside |= 1u << i;
    }
  }
  CNNEXT_DEVICE void activate(const Norms& norms) {
    const ChannelNorm<compute_t<T>> norm = norms.of[this->lane()];
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) {
      if ((inside >> i & 1) != 0) this->values[i] = norm.activated(this->values[i]);
    }
  }
};

template <class Config, class T>
struct WindowCopy<Config, T, Load::scalar_k> : ScalarCopy<Config, T, Config::kTileN, true> {
  using Norms = ColumnNorms<compute_t<T>, Config::kTileN>;
  const T* x;
  WeightColumn column[ScalarCopy<Config, T, Config::kTileN, true>::kCount];
  uint32_t inside = 0;  // bit i: value i was read

  CNNEXT_DEVICE WindowCopy(const WeightProblem& problem, const T* x_, int group, int n0) : x(x_) {
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) column[i].find(problem, group, n0 + this->row(i));
  }
  CNNEXT_DEVICE void load(const WeightProblem& problem, const PixelEntry* pixels) {
    const PixelEntry pixel = pixels[this->lane()];
    inside = 0;
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) {
      this->values[i] = device::from_compute<T>(0);
      if (!column[i].inside(problem, pixel)) continue;
      this->values[i] = (x + pixel.window)[column[i].offset];
      inside |= 1u << i;
    }
  }
  CNNEXT_DEVICE void activate(const Norms& norms) {
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) {
      if ((inside >> i & 1) != 0) this->values[i] = norms.of[this->row(i)].activated(this->values[i]);
    }
  }
};

template <class Config, class T>
struct WindowCopy<Config, T, Load::vector_extent> : VectorCopy<Config, T, Config::kTileN, false> {
  using Norms = ColumnNorms<compute_t<T>, Config::kTileN>;
  const T* x;
  WeightColumn column;
  uint32_t inside = 0;  // bit i: vector i was read

  CNNEXT_DEVICE WindowCopy(const WeightProblem& problem, const T* x_, int group, int n0) : x(x_) {
    column.find(problem, group, n0 + this->vector());
  }
  CNNEXT_DEVICE void load(const WeightProblem& problem, const PixelEntry* pixels) {
    inside = 0;
#pragma unroll
    for (int i = 0; i < this->kCount; ++i) {
      const PixelEntry pixel = pixels[this->row(i)];
      this->values[i] = {};
      if (!column.inside(problem, pixel)) continue;
      this->values[i] = device::load_vector_readonly<this->kVector>(x + pixel.window + column.offset);
      inside |= 1u << i;
    }
  }
  CNNEXT_DEVICE void activate(const Norms& norms) {
#pragma unroll
    for (int j = 0; j < this->kVector; ++j) {
      const ChannelNorm<compute_t<T>> norm = norms.of[this->vector() + j];
#pragma unroll
      for (int i = 0; i < this->kCount; ++i) {
        if ((inside >> i & 1) != 0) this->values[i][j] = norm.activated(this->values[i][j]);
      }
    }
  }
};

}  // namespace cnnext::implicit_gemm
