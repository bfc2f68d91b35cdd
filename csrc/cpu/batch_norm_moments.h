// batch_norm's statistics, included by batch_norm_kernel.cpp.
//
// One pass over memory: a block of at most some thousand values is summed in compute precision as
// Σ(x − shift) and Σ(x − shift)², with the mean of all earlier blocks for the shift (the first block is read
// twice, from L1, to have its own mean). Blocks are merged in double by Chan, Golub and LeVeque (1983). A
// shift that is far off costs no accuracy: its distance enters the merged variance just as it enters the
// rounding error. Limit: (x − mean)² must not overflow the compute type.
#pragma once

#include "batch_norm_walk.h"

namespace cnnext::CNNEXT_ISA {

// Adds to the moments of `count` values those of n others, of `sum` and `square` = Σ(x − own mean)².
class Merge {
 public:
  Merge(double count, double n)
      : inverse_count_(count > 0 ? 1 / count : 0), inverse_n_(1 / n), weight_(count * n / (count + n)) {}

  CNNEXT_INLINE void operator()(double& total_sum, double& total_square, double sum, double square) const {
    const double distance = sum * inverse_n_ - total_sum * inverse_count_;
    total_square += square + distance * distance * weight_;
    total_sum += sum;
  }

  // The same for sums over values from which `shift` was taken off.
  CNNEXT_INLINE void shifted(double& total_sum, double& total_square, double shift, double sum, double square,
                             double n) const {
    (*this)(total_sum, total_square, n* shift + sum, square - sum * sum * inverse_n_);
  }

 private:
  double inverse_count_, inverse_n_, weight_;
};

// A shift must be finite: x − ∞ would turn an infinite mean, which is what torch gives, into NaN.
template <typename C>
CNNEXT_INLINE C finite_or_zero(C value) {
  return value - value == 0 ? value : 0;
}

template <typename T, typename C = compute_t<T>>
CNNEXT_INLINE C mean_of_patch(const Patches& patch, const T* x) {
  Vec<C> sums[kAccumulators]{};
  for (int64_t r = 0; r < patch.runs; ++r) {
    const T* run = x + patch.offset + r * patch.pitch;
    for_each_vector_once<C>(patch.length, [&](int64_t i, int64_t skip, int64_t n, int j) {
      sums[j] += counted<C>(load_first(run + i, n), skip, n);
    });
  }
  return finite_or_zero(static_cast<C>(total<C>(sums) / static_cast<double>(patch.values())));
}

// One channel in NCHW.
template <typename T>
static void moments_of_channel(Patches patch, const T* x, double& total_sum, double& total_square) {
  using C = compute_t<T>;
  double sum = 0, square = 0, count = 0;
  while (patch.next()) {
    const C shift = count == 0 ? mean_of_patch(patch, x) : finite_or_zero(static_cast<C>(sum / count));
    const Vec<C> shifts = broadcast(shift);
    Vec<C> sums[kAccumulators]{}, squares[kAccumulators]{};
    for (int64_t r = 0; r < patch.runs; ++r) {
      const T* run = x + patch.offset + r * patch.pitch;
      for_each_vector_once<C>(patch.length, [&](int64_t i, int64_t skip, int64_t n, int j) {
        const Vec<C> v = counted<C>(load_first(run + i, n) - shifts, skip, n);
        sums[j] += v;
        squares[j] = v * v + squares[j];
      });
    }
    const double n = static_cast<double>(patch.values());
    Merge(count, n).shifted(sum, square, shift, total<C>(sums), total<C>(squares), n);
    count += n;
  }
  total_sum = sum;
  total_square = square;
}

// `rows` rows of a strip of kVectors vectors in NHWC; a single vector may be cut to `width` channels.
template <typename T, int kVectors, typename C = compute_t<T>>
static void moments_of_strip(const T* x, int64_t pitch, int64_t rows, int64_t width, bool find_shift,
                             C* shift, C* sum, C* square) {
  constexpr int L = kLanes<C>;
  const int64_t n = kVectors == 1 ? width : L;
  Vec<C> s[kVectors]{}, q[kVectors]{}, k[kVectors];
  if (find_shift) {
    for (int64_t r = 0; r < rows; ++r) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) s[j] += load_first(x + r * pitch + j * L, n);
    }
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      const Vec<C> mean = s[j] * broadcast(1 / static_cast<C>(rows));
      store(shift + j * L, select<C>(mean - mean == Vec<C>{}, mean, Vec<C>{}));
      s[j] = Vec<C>{};
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j) k[j] = load(shift + j * L);
  for (int64_t r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      const Vec<C> v = load_first(x + r * pitch + j * L, n) - k[j];
      s[j] += v;
      q[j] = v * v + q[j];
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j) {
    store(sum + j * L, s[j]);
    store(square + j * L, q[j]);
  }
}

template <typename T>
static void moments_channels_last(const BatchNormShape& shape, const BatchNormBlock& block, const T* x,
                                  double* total_sum, double* total_square) {
  using C = compute_t<T>;
  C shift[kStripWidth<C>]{}, sum[kStripWidth<C>], square[kStripWidth<C>];
  for (int64_t c = block.c_begin; c < block.c_end; ++c) total_sum[c] = total_square[c] = 0;
  for (int64_t row = block.begin; row < block.end; row += kAdditions) {
    const int64_t count = row - block.begin, rows = smaller(kAdditions, block.end - row);
    const double n = static_cast<double>(rows),
                 inverse_count = count > 0 ? 1 / static_cast<double>(count) : 0;
    const Merge merge(static_cast<double>(count), n);
    for (int64_t c = block.c_begin, width; c < block.c_end; c += width) {
      const T* strip = x + row * shape.c + c;
      const bool whole = block.c_end - c >= kStripWidth<C>;
      width = whole ? kStripWidth<C> : smaller<int64_t>(kLanes<C>, block.c_end - c);
      for (int64_t j = 0; j < width; ++j)
        shift[j] = finite_or_zero(static_cast<C>(total_sum[c + j] * inverse_count));
      (whole ? moments_of_strip<T, kAccumulators> : moments_of_strip<T, 1>)(strip, shape.c, rows, width,
                                                                            count == 0, shift, sum, square);
      for (int64_t j = 0; j < width; ++j) {
        merge.shifted(total_sum[c + j], total_square[c + j], static_cast<double>(shift[j]),
                      static_cast<double>(sum[j]), static_cast<double>(square[j]), n);
      }
    }
  }
}

template <typename T>
static void moments(const BatchNormShape& shape, const BatchNormBlock& block, const T* x, double* sums) {
  if (shape.channels_last) return moments_channels_last(shape, block, x, sums, sums + shape.c);
  const Patches patches(shape, block, kBlockValues<compute_t<T>>);
  for (int64_t c = block.c_begin; c < block.c_end; ++c) {
    moments_of_channel(patches.of_channel(c), x, sums[c], sums[shape.c + c]);
  }
}

// Columns of `count` values each become one channel: the squares within them, and those of their means.
static void fold_moments(const BatchNormShape& shape, double count, double* sum, double* square) {
  const double fold = static_cast<double>(shape.fold);
  for (int64_t channel = 0; channel < shape.channels(); ++channel) {
    const double *column_sum = sum + channel * shape.fold, *column_square = square + channel * shape.fold;
    double channel_sum = 0, within = 0, between = 0;
    for (int64_t i = 0; i < shape.fold; ++i) {
      channel_sum += column_sum[i];
      within += column_square[i];
    }
    for (int64_t i = 0; i < shape.fold; ++i) {
      const double distance = column_sum[i] - channel_sum / fold;
      between += distance * distance;
    }
    sum[channel] = channel_sum;
    square[channel] = within + between / count;
  }
}

template <typename C>
static void merge_moments(const BatchNormShape& shape, int64_t parts, const int64_t* counts, int64_t c_begin,
                          int64_t c_end, double* partial, C* mean, C* var) {
  double *sum = partial, *square = partial + shape.c;
  int64_t before = counts[0];
  for (int64_t part = 1; part < parts; before += counts[part++]) {
    const double *other_sum = partial + part * 2 * shape.c, *other_square = other_sum + shape.c;
    const Merge merge(static_cast<double>(before), static_cast<double>(counts[part]));
    for (int64_t c = c_begin; c < c_end; ++c) merge(sum[c], square[c], other_sum[c], other_square[c]);
  }
  double count = static_cast<double>(shape.values());
  if (shape.fold > 1) {
    fold_moments(shape, count, sum, square);
    count *= static_cast<double>(shape.fold);
    c_end = shape.channels();
  }
  for (int64_t c = c_begin; c < c_end; ++c) {
    sum[c] /= count;
    square[c] = square[c] < 0 ? 0 : square[c] / count;  // NaN stays
    mean[c] = static_cast<C>(sum[c]);
    var[c] = static_cast<C>(square[c]);
  }
}

}  // namespace cnnext::CNNEXT_ISA
