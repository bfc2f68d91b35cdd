// batch_norm, backward. With x̂ = (x − mean) / sqrt(var + eps) and means over the values of a channel:
//   grad_bias = Σ grad        grad_weight = Σ grad·x̂
//   grad_x = weight / sqrt(var + eps) · (grad − mean(grad) − x̂·mean(grad·x̂))
// where the last two terms belong to the batch's statistics and vanish without training.
//
// One pass over grad and x for both sums, one for grad_x. Sums of at most kAdditions values are taken in
// compute precision, those of the blocks in double.
#include "batch_norm_kernel.h"
#include "batch_norm_walk.h"

namespace cnnext::CNNEXT_ISA {
namespace {

template <typename C>
struct GradientSums {
  Vec<C> grad[kAccumulators]{}, product[kAccumulators]{};
};

template <typename T, typename C = compute_t<T>>
CNNEXT_INLINE void add_run(GradientSums<C>& sums, const T* grad, const T* x, int64_t length, Vec<C> mean) {
  constexpr int64_t kStep = kAccumulators * kLanes<C>;
  int64_t i = 0;
  for (; i + kStep <= length; i += kStep) {
#pragma GCC unroll 4
    for (int j = 0; j < kAccumulators; ++j) {
      const Vec<C> g = load(grad + i + j * kLanes<C>);
      sums.grad[j] += g;
      sums.product[j] = g * (load(x + i + j * kLanes<C>) - mean) + sums.product[j];
    }
  }
  for_each_vector<C>(i, length, [&](int64_t first, int64_t n) {
    const Vec<C> g = load_first(grad + first, n);
    sums.grad[0] += g;
    sums.product[0] = g * (load_first(x + first, n) - mean) + sums.product[0];
  });
}

// One channel in NCHW. Small images share a block, large ones are cut.
template <typename T>
void sums_of_channel(const BatchNormShape& shape, const BatchNormBlock& block, int64_t c, const T* grad,
                     const T* x, double mean, double& total_grad, double& total_product) {
  using C = compute_t<T>;
  constexpr int64_t kBlock = kAdditions * kAccumulators * kLanes<C> / 2;
  const Vec<C> center = broadcast(static_cast<C>(mean));
  total_grad = total_product = 0;
  ChannelRuns runs(shape, c, block.begin, block.end, kBlock);
  for (bool more = runs.next(); more;) {
    GradientSums<C> sums;
    int64_t n = 0;
    do {
      add_run(sums, grad + runs.offset, x + runs.offset, runs.length, center);
      n += runs.length;
      more = runs.next();
    } while (more && n + runs.length <= kBlock);
    total_grad += total<C>(sums.grad);
    total_product += total<C>(sums.product);
  }
}

// `rows` rows of a strip of kVectors vectors in NHWC; a single vector may be cut to `width` channels.
template <typename T, int kVectors, typename C = compute_t<T>>
void sums_of_strip(const T* grad, const T* x, int64_t pitch, int64_t rows, int64_t width, const C* mean,
                   C* sum, C* product) {
  constexpr int L = kLanes<C>;
  const int64_t n = kVectors == 1 ? width : L;
  Vec<C> s[kVectors]{}, q[kVectors]{}, k[kVectors];
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j) k[j] = load(mean + j * L);
  for (int64_t r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      const Vec<C> g = load_first(grad + r * pitch + j * L, n);
      s[j] += g;
      q[j] = g * (load_first(x + r * pitch + j * L, n) - k[j]) + q[j];
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j) {
    store(sum + j * L, s[j]);
    store(product + j * L, q[j]);
  }
}

template <typename T>
void sums_channels_last(const BatchNormShape& shape, const BatchNormBlock& block, const T* grad, const T* x,
                        const double* mean, double* total_grad, double* total_product) {
  using C = compute_t<T>;
  C center[kStripWidth<C>]{}, sum[kStripWidth<C>], product[kStripWidth<C>];
  for (int64_t c = block.c_begin; c < block.c_end; ++c) total_grad[c] = total_product[c] = 0;
  for (int64_t row = block.begin; row < block.end; row += kAdditions) {
    const int64_t rows = smaller(kAdditions, block.end - row);
    for (int64_t c = block.c_begin, width; c < block.c_end; c += width) {
      const int64_t offset = row * shape.c + c;
      const bool whole = block.c_end - c >= kStripWidth<C>;
      width = whole ? kStripWidth<C> : smaller<int64_t>(kLanes<C>, block.c_end - c);
      for (int64_t j = 0; j < width; ++j) center[j] = static_cast<C>(mean[c + j]);
      (whole ? sums_of_strip<T, kAccumulators> : sums_of_strip<T, 1>)(grad + offset, x + offset, shape.c,
                                                                      rows, width, center, sum, product);
      for (int64_t j = 0; j < width; ++j) {
        total_grad[c + j] += static_cast<double>(sum[j]);
        total_product[c + j] += static_cast<double>(product[j]);
      }
    }
  }
}

template <typename T>
void sums(const BatchNormShape& shape, const BatchNormBlock& block, const T* grad, const T* x,
          const double* mean, double* sums) {
  if (shape.channels_last) return sums_channels_last(shape, block, grad, x, mean, sums, sums + shape.c);
  for (int64_t c = block.c_begin; c < block.c_end; ++c) {
    sums_of_channel(shape, block, c, grad, x, mean[c], sums[c], sums[shape.c + c]);
  }
}

template <typename C>
void coefficients(const BatchNormShape& shape, const BatchNormChunks& chunks, int64_t c_begin, int64_t c_end,
                  double* partial, const BatchNormChannels& channels, bool training,
                  const BatchNormCoefficients<C>& result, C* grad_weight, C* grad_bias) {
  double *sum = partial, *product = partial + shape.c;
  for (int64_t chunk = 1; chunk < chunks.count; ++chunk) {
    const double *other_sum = partial + chunk * 2 * shape.c, *other_product = other_sum + shape.c;
    for (int64_t c = c_begin; c < c_end; ++c) {
      sum[c] += other_sum[c];
      product[c] += other_product[c];
    }
  }
  const double statistics = training ? 1 / static_cast<double>(shape.values()) : 0;
  for (int64_t c = c_begin; c < c_end; ++c) {
    const double inverse = 1 / __builtin_sqrt(channels.var[c] + channels.eps);
    const double scale = channels.weight ? channels.weight[c] * inverse : inverse;
    grad_weight[c] = static_cast<C>(product[c] * inverse);
    grad_bias[c] = static_cast<C>(sum[c]);
    result.center[c] = static_cast<C>(channels.mean[c]);
    result.scale[c] = static_cast<C>(scale);
    result.slope[c] = static_cast<C>(-scale * inverse * inverse * product[c] * statistics);
    result.offset[c] = static_cast<C>(-scale * sum[c] * statistics);
  }
}

// From the end to the beginning: what `sums` read last is still in the cache.
template <typename T, bool kTraining>
void apply_channels_last(const BatchNormShape& shape, const BatchNormBlock& block, const T* grad, const T* x,
                         const BatchNormCoefficients<compute_t<T>>& coefficients, T* grad_x) {
  using C = compute_t<T>;
  const C *center = coefficients.center, *scale = coefficients.scale, *slope = coefficients.slope,
          *offset = coefficients.offset;
  for (int64_t row = block.end; row-- > block.begin;) {
    const T *grad_row = grad + row * shape.c, *x_row = x + row * shape.c;
    T* result_row = grad_x + row * shape.c;
    for_each_vector<C>(block.c_begin, block.c_end, [&](int64_t c, int64_t n) {
      Vec<C> v = load_first(grad_row + c, n) * load_first(scale + c, n);
      if (kTraining) {
        const Vec<C> distance = load_first(x_row + c, n) - load_first(center + c, n);
        v = distance * load_first(slope + c, n) + (v + load_first(offset + c, n));
      }
      store_first(result_row + c, v, n);
    });
  }
}

template <typename T, bool kTraining>
void apply_nchw(const BatchNormShape& shape, const BatchNormBlock& block, const T* grad, const T* x,
                const BatchNormCoefficients<compute_t<T>>& coefficients, T* grad_x) {
  using C = compute_t<T>;
  for (int64_t c = block.c_begin; c < block.c_end; ++c) {
    const Vec<C> center = broadcast(coefficients.center[c]), scale = broadcast(coefficients.scale[c]),
                 slope = broadcast(coefficients.slope[c]), offset = broadcast(coefficients.offset[c]);
    for (ChannelRuns runs(shape, c, block.begin, block.end, shape.hw); runs.next();) {
      const T *grad_run = grad + runs.offset, *x_run = x + runs.offset;
      T* result_run = grad_x + runs.offset;
      for_each_vector<C>(0, runs.length, [&](int64_t i, int64_t n) {
        Vec<C> v = load_first(grad_run + i, n) * scale;
        if (kTraining) v = (load_first(x_run + i, n) - center) * slope + (v + offset);
        store_first(result_run + i, v, n);
      });
    }
  }
}

template <typename T>
void apply(const BatchNormShape& shape, const BatchNormBlock& block, const T* grad, const T* x,
           const BatchNormCoefficients<compute_t<T>>& coefficients, bool training, T* grad_x) {
  if (shape.channels_last) {
    (training ? apply_channels_last<T, true> : apply_channels_last<T, false>)(shape, block, grad, x,
                                                                              coefficients, grad_x);
  } else {
    (training ? apply_nchw<T, true> : apply_nchw<T, false>)(shape, block, grad, x, coefficients, grad_x);
  }
}

}  // namespace

template <typename T>
const BatchNormBackwardKernels<T>& batch_norm_backward_kernels() {
  static constexpr BatchNormBackwardKernels<T> table{sums<T>, coefficients<compute_t<T>>, apply<T>};
  return table;
}

CNNEXT_INSTANTIATE_KERNELS(BatchNormBackwardKernels, batch_norm_backward_kernels)

}  // namespace cnnext::CNNEXT_ISA
