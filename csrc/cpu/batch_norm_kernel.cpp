// batch_norm, forward (Ioffe and Szegedy 2015).   y = (x − mean) / sqrt(var + eps) · weight + bias, per
// channel
//
// Statistics, one pass over memory: a block of at most some thousand values is summed in compute precision as
// Σ(x − shift) and Σ(x − shift)², with the mean of all earlier blocks for the shift (the first block is read
// twice, from L1, to have its own mean). Blocks are merged in double by Chan, Golub and LeVeque (1983). A
// shift that is far off costs no accuracy: its distance enters the merged variance just as it enters the
// rounding error. Limit: (x − mean)² must not overflow the compute type.
#include "batch_norm_kernel.h"

#include "batch_norm_walk.h"

namespace cnnext::CNNEXT_ISA {
namespace {

template <typename T>
void widen(const T* from, int64_t stride, double* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<double>(to_compute(from[i * stride]));
}

// ---- statistics
// ---------------------------------------------------------------------------------------------

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
void moments_of_channel(Patches patch, const T* x, double& total_sum, double& total_square) {
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
void moments_of_strip(const T* x, int64_t pitch, int64_t rows, int64_t width, bool find_shift, C* shift,
                      C* sum, C* square) {
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
void moments_channels_last(const BatchNormShape& shape, const BatchNormBlock& block, const T* x,
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
void moments(const BatchNormShape& shape, const BatchNormBlock& block, const T* x, double* sums) {
  if (shape.channels_last) return moments_channels_last(shape, block, x, sums, sums + shape.c);
  const Patches patches(shape, block, kBlockValues<compute_t<T>>);
  for (int64_t c = block.c_begin; c < block.c_end; ++c) {
    moments_of_channel(patches.of_channel(c), x, sums[c], sums[shape.c + c]);
  }
}

// Columns of `count` values each become one channel: the squares within them, and those of their means.
void fold_moments(const BatchNormShape& shape, double count, double* sum, double* square) {
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
void merge_moments(const BatchNormShape& shape, const BatchNormChunks& chunks, int64_t c_begin, int64_t c_end,
                   double* partial, C* mean, C* var) {
  double *sum = partial, *square = partial + shape.c;
  for (int64_t chunk = 1; chunk < chunks.count; ++chunk) {
    const double *other_sum = partial + chunk * 2 * shape.c, *other_square = other_sum + shape.c;
    const int64_t count = chunk * chunks.length, n = smaller(chunks.length, shape.values() - count);
    const Merge merge(static_cast<double>(count), static_cast<double>(n));
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

template <typename T>
void update(T* running_mean, int64_t mean_stride, T* running_var, int64_t var_stride, const double* mean,
            const double* var, int64_t c, int64_t count, double momentum) {
  using C = compute_t<T>;
  const double values = static_cast<double>(count), unbiased = values / (values - 1);
  const auto blend = [&](T& running, double batch) {
    const double old = static_cast<double>(to_compute(running));
    running = from_compute<T>(static_cast<C>((1 - momentum) * old + momentum * batch));
  };
  for (int64_t i = 0; i < c; ++i) {
    blend(running_mean[i * mean_stride], mean[i]);
    blend(running_var[i * var_stride], var[i] * unbiased);
  }
}

// ---- normalisation
// ------------------------------------------------------------------------------------------

// x − center is exact where x is near the mean, which x·scale + (bias − mean·scale) would not be; `offset`
// also takes up what rounding the mean to `center` lost.
template <typename C>
void coefficients(const BatchNormShape& shape, const BatchNormChannels& channels, int64_t c_begin,
                  int64_t c_end, const BatchNormCoefficients<C>& result) {
  for (int64_t c = c_begin; c < c_end / shape.fold; ++c) {
    const double inverse = 1 / __builtin_sqrt(channels.var[c] + channels.eps);
    const double scale = channels.weight ? channels.weight[c] * inverse : inverse;
    const double bias = channels.bias ? channels.bias[c] : 0;
    const C center = static_cast<C>(channels.mean[c]);
    const double lost = channels.mean[c] - static_cast<double>(center);
    result.center[c] = center;
    result.scale[c] = static_cast<C>(scale);
    result.offset[c] = static_cast<C>(bias - (lost == lost ? lost * scale : 0));  // ∞ − ∞: nothing was lost
  }
  spread(shape, result.center);
  spread(shape, result.scale);
  spread(shape, result.offset);
}

// From the end to the beginning: what `moments` read last is still in the cache.
template <typename T>
void apply(const BatchNormShape& shape, const BatchNormBlock& block, const T* x,
           const BatchNormCoefficients<compute_t<T>>& coefficients, T* y) {
  using C = compute_t<T>;
  if (shape.channels_last) {
    const C *center = coefficients.center, *scale = coefficients.scale, *offset = coefficients.offset;
    for (int64_t row = block.end; row-- > block.begin;) {
      const T* x_row = x + row * shape.c;
      T* y_row = y + row * shape.c;
      for_each_vector<C>(block.c_begin, block.c_end, [&](int64_t c, int64_t n) {
        const Vec<C> v = load_first(x_row + c, n) - load_first(center + c, n);
        store_first(y_row + c, v * load_first(scale + c, n) + load_first(offset + c, n), n);
      });
    }
    return;
  }
  for (Patches patch(shape, block, block.end - block.begin); patch.next();) {
    for (int64_t c = block.c_begin; c < block.c_end; ++c) {
      const Vec<C> center = broadcast(coefficients.center[c]), scale = broadcast(coefficients.scale[c]),
                   offset = broadcast(coefficients.offset[c]);
      for (int64_t r = patch.runs; r-- > 0;) {
        const int64_t run = patch.offset + c * shape.hw + r * patch.pitch;
        const T* x_run = x + run;
        T* y_run = y + run;
        for_each_vector<C>(0, patch.length, [&](int64_t i, int64_t n) {
          store_first(y_run + i, (load_first(x_run + i, n) - center) * scale + offset, n);
        });
      }
    }
  }
}

}  // namespace

template <typename T>
const BatchNormKernels<T>& batch_norm_kernels() {
  using C = compute_t<T>;
  static constexpr BatchNormKernels<T> table{widen<T>,        moments<T>, merge_moments<C>,
                                             coefficients<C>, apply<T>,   update<T>};
  return table;
}

CNNEXT_INSTANTIATE_KERNELS(BatchNormKernels, batch_norm_kernels)

}  // namespace cnnext::CNNEXT_ISA
