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

template <typename C>
struct MomentSums {
  Vec<C> sum[kAccumulators]{}, square[kAccumulators]{};
};

template <typename T, typename C = compute_t<T>>
CNNEXT_INLINE C mean_of_run(const T* x, int64_t length) {
  Vec<C> sums[kAccumulators]{};
  for_each_vector<C>(0, length, [&](int64_t i, int64_t n) { sums[0] += load_first(x + i, n); });
  return finite_or_zero(static_cast<C>(total<C>(sums) / static_cast<double>(length)));
}

template <typename T, typename C = compute_t<T>>
CNNEXT_INLINE void add_run(MomentSums<C>& sums, const T* x, int64_t length, Vec<C> shift) {
  constexpr int64_t kStep = kAccumulators * kLanes<C>;
  int64_t i = 0;
  for (; i + kStep <= length; i += kStep) {
#pragma GCC unroll 4
    for (int j = 0; j < kAccumulators; ++j) {
      const Vec<C> v = load(x + i + j * kLanes<C>) - shift;
      sums.sum[j] += v;
      sums.square[j] = v * v + sums.square[j];
    }
  }
  for (; i + kLanes<C> <= length; i += kLanes<C>) {
    const Vec<C> v = load(x + i) - shift;
    sums.sum[1] += v;
    sums.square[1] = v * v + sums.square[1];
  }
  if (i < length) {
    const Vec<C> v = select<C>(first_lanes<C>(length - i), load_first(x + i, length - i) - shift, Vec<C>{});
    sums.sum[0] += v;
    sums.square[0] = v * v + sums.square[0];
  }
}

// One channel in NCHW. Small images share a block, large ones are cut.
template <typename T>
void moments_of_channel(const BatchNormShape& shape, const BatchNormBlock& block, int64_t c, const T* x,
                        double& total_sum, double& total_square) {
  using C = compute_t<T>;
  constexpr int64_t kBlock = kAdditions * kAccumulators * kLanes<C> / 2;
  double sum = 0, square = 0, count = 0;
  C shift = 0;
  ChannelRuns runs(shape, c, block.begin, block.end, kBlock);
  for (bool more = runs.next(); more;) {
    MomentSums<C> sums;
    shift =
        count == 0 ? mean_of_run(x + runs.offset, runs.length) : finite_or_zero(static_cast<C>(sum / count));
    int64_t n = 0;
    do {
      add_run(sums, x + runs.offset, runs.length, broadcast(shift));
      n += runs.length;
      more = runs.next();
    } while (more && count > 0 && n + runs.length <= kBlock);
    Merge(count, n).shifted(sum, square, shift, total<C>(sums.sum), total<C>(sums.square), n);
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
  for (int64_t c = block.c_begin; c < block.c_end; ++c) {
    moments_of_channel(shape, block, c, x, sums[c], sums[shape.c + c]);
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
  const double values = static_cast<double>(shape.values());
  for (int64_t c = c_begin; c < c_end; ++c) {
    sum[c] /= values;
    square[c] = square[c] < 0 ? 0 : square[c] / values;  // NaN stays
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
void coefficients(const BatchNormChannels& channels, int64_t c_begin, int64_t c_end,
                  const BatchNormCoefficients<C>& result) {
  for (int64_t c = c_begin; c < c_end; ++c) {
    const double inverse = 1 / __builtin_sqrt(channels.var[c] + channels.eps);
    const double scale = channels.weight ? channels.weight[c] * inverse : inverse;
    const double bias = channels.bias ? channels.bias[c] : 0;
    const C center = static_cast<C>(channels.mean[c]);
    const double lost = channels.mean[c] - static_cast<double>(center);
    result.center[c] = center;
    result.scale[c] = static_cast<C>(scale);
    result.offset[c] = static_cast<C>(bias - (lost == lost ? lost * scale : 0));  // ∞ − ∞: nothing was lost
  }
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
  for (int64_t c = block.c_begin; c < block.c_end; ++c) {
    const Vec<C> center = broadcast(coefficients.center[c]), scale = broadcast(coefficients.scale[c]),
                 offset = broadcast(coefficients.offset[c]);
    for (ChannelRuns runs(shape, c, block.begin, block.end, shape.hw); runs.next();) {
      const T* x_run = x + runs.offset;
      T* y_run = y + runs.offset;
      for_each_vector<C>(0, runs.length, [&](int64_t i, int64_t n) {
        store_first(y_run + i, (load_first(x_run + i, n) - center) * scale + offset, n);
      });
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
