// batch_norm, backward. With x̂ = (x − mean) / sqrt(var + eps) and means over the values of a channel:
//   grad_bias = Σ grad        grad_weight = Σ grad·x̂
//   grad_x = weight / sqrt(var + eps) · (grad − mean(grad) − x̂·mean(grad·x̂))
// where the last two terms belong to the batch's statistics and vanish without training.
//
// One pass over grad and x for both sums, one for grad_x.
#include "batch_norm_kernel.h"
#include "batch_norm_walk.h"

namespace cnnext::CNNEXT_ISA {
namespace {

// One channel in NCHW.
template <typename T>
void sums_of_channel(Patches patch, const T* grad, const T* x, compute_t<T> center, double& total_grad,
                     double& total_product) {
  using S = sum_t<T>;
  const Vec<S> centers = broadcast(static_cast<S>(center));
  total_grad = total_product = 0;
  while (patch.next()) {
    Vec<S> sums[kAccumulators]{}, products[kAccumulators]{};
    for (int64_t r = 0; r < patch.runs; ++r) {
      const T *grad_run = grad + patch.offset + r * patch.pitch, *x_run = x + patch.offset + r * patch.pitch;
      for_each_vector_once<S>(patch.length, [&](int64_t i, int64_t skip, int64_t n, int j) {
        const Vec<S> g = counted<S>(load_for_sum(grad_run + i, n), skip, n);
        sums[j] += g;
        products[j] = g * (load_for_sum(x_run + i, n) - centers) + products[j];
      });
    }
    total_grad += total<S>(sums);
    total_product += total<S>(products);
  }
}

// `rows` rows of a strip of kVectors vectors in NHWC; a single vector may be cut to `width` channels.
template <typename T, int kVectors, typename C = compute_t<T>>
void sums_of_strip(const T* grad, const T* x, int64_t pitch, int64_t rows, int64_t width, const C* center,
                   C* sum, C* product) {
  constexpr int L = kLanes<C>;
  const int64_t n = kVectors == 1 ? width : L;
  Vec<C> s[kVectors]{}, q[kVectors]{}, k[kVectors];
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j) k[j] = load_first(center + j * L, n);
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
                        const compute_t<T>* center, double* total_grad, double* total_product) {
  using C = compute_t<T>;
  C sum[kStripWidth<C>], product[kStripWidth<C>];
  for (int64_t c = block.c_begin; c < block.c_end; ++c) total_grad[c] = total_product[c] = 0;
  for (int64_t row = block.begin; row < block.end; row += kAdditions) {
    const int64_t rows = smaller(kAdditions, block.end - row);
    for (int64_t c = block.c_begin, width; c < block.c_end; c += width) {
      const int64_t offset = row * shape.c + c;
      const bool whole = block.c_end - c >= kStripWidth<C>;
      width = whole ? kStripWidth<C> : smaller<int64_t>(kLanes<C>, block.c_end - c);
      (whole ? sums_of_strip<T, kAccumulators> : sums_of_strip<T, 1>)(grad + offset, x + offset, shape.c,
                                                                      rows, width, center + c, sum, product);
      for (int64_t j = 0; j < width; ++j) {
        total_grad[c + j] += static_cast<double>(sum[j]);
        total_product[c + j] += static_cast<double>(product[j]);
      }
    }
  }
}

template <typename T>
void sums(const BatchNormShape& shape, const BatchNormBlock& block, const T* grad, const T* x,
          const compute_t<T>* center, double* sums) {
  if (shape.channels_last) return sums_channels_last(shape, block, grad, x, center, sums, sums + shape.c);
  const Patches patches(shape, block, kBlockValues<compute_t<T>>);
  for (int64_t c = block.c_begin; c < block.c_end; ++c) {
    sums_of_channel(patches.of_channel(c), grad, x, center[c], sums[c], sums[shape.c + c]);
  }
}

template <typename C>
void centers(const BatchNormShape& shape, const double* mean, C* center) {
  for (int64_t c = 0; c < shape.channels(); ++c) center[c] = static_cast<C>(mean[c]);
  spread(shape, center);
}

// Adds the other chunks to the first, then the columns of each channel.
void add_up(const BatchNormShape& shape, const BatchNormChunks& chunks, int64_t c_begin, int64_t c_end,
            double* sum, double* product) {
  for (int64_t chunk = 1; chunk < chunks.count; ++chunk) {
    const int64_t other = chunk * 2 * shape.c;
    for (int64_t c = c_begin; c < c_end; ++c) {
      sum[c] += sum[other + c];
      product[c] += product[other + c];
    }
  }
  if (shape.fold == 1) return;
  for (int64_t channel = 0; channel < shape.channels(); ++channel) {
    double channel_sum = 0, channel_product = 0;
    for (int64_t i = channel * shape.fold; i < (channel + 1) * shape.fold; ++i) {
      channel_sum += sum[i];
      channel_product += product[i];
    }
    sum[channel] = channel_sum;
    product[channel] = channel_product;
  }
}

template <typename C>
void coefficients(const BatchNormShape& shape, const BatchNormChunks& chunks, int64_t c_begin, int64_t c_end,
                  double* partial, const BatchNormChannels& channels, bool training,
                  const BatchNormCoefficients<C>& result, C* grad_weight, C* grad_bias) {
  const double *sum = partial, *product = partial + shape.c;
  add_up(shape, chunks, c_begin, c_end, partial, partial + shape.c);
  const double statistics = training ? 1 / static_cast<double>(shape.values() * shape.fold) : 0;
  for (int64_t c = c_begin; c < c_end / shape.fold; ++c) {
    const double inverse = 1 / __builtin_sqrt(channels.var[c] + channels.eps);
    const double scale = channels.weight ? channels.weight[c] * inverse : inverse;
    grad_weight[c] = static_cast<C>(product[c] * inverse);
    grad_bias[c] = static_cast<C>(sum[c]);
    result.scale[c] = static_cast<C>(scale);
    result.slope[c] = static_cast<C>(-scale * inverse * inverse * product[c] * statistics);
    result.offset[c] = static_cast<C>(-scale * sum[c] * statistics);
  }
  spread(shape, result.scale);
  spread(shape, result.slope);
  spread(shape, result.offset);
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
  for (Patches patch(shape, block, block.end - block.begin); patch.next();) {
    for (int64_t c = block.c_begin; c < block.c_end; ++c) {
      const Vec<C> center = broadcast(coefficients.center[c]), scale = broadcast(coefficients.scale[c]),
                   slope = broadcast(coefficients.slope[c]), offset = broadcast(coefficients.offset[c]);
      for (int64_t r = patch.runs; r-- > 0;) {
        const int64_t run = patch.offset + c * shape.hw + r * patch.pitch;
        const T *grad_run = grad + run, *x_run = x + run;
        T* result_run = grad_x + run;
        for_each_vector<C>(0, patch.length, [&](int64_t i, int64_t n) {
          Vec<C> v = load_first(grad_run + i, n) * scale;
          if (kTraining) v = (load_first(x_run + i, n) - center) * slope + (v + offset);
          store_first(result_run + i, v, n);
        });
      }
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
  static constexpr BatchNormBackwardKernels<T> table{centers<compute_t<T>>, sums<T>,
                                                     coefficients<compute_t<T>>, apply<T>};
  return table;
}

CNNEXT_INSTANTIATE_KERNELS(BatchNormBackwardKernels, batch_norm_backward_kernels)

}  // namespace cnnext::CNNEXT_ISA
