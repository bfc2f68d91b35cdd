// batch_norm, backward. With x̂ = (x − mean) / sqrt(var + eps) and means over the values of a channel:
//   grad_bias = Σ g        grad_weight = Σ g·x̂
//   grad_x = weight / sqrt(var + eps) · (g − mean(g) − x̂·mean(g·x̂))
// where the last two terms belong to the batch's statistics and vanish without training. g is the gradient,
// or for batch_norm_relu what the ReLU lets through of it; the mask is computed anew in both passes.
//
// One pass over grad and x for both sums, one for grad_x.
#include "batch_norm_kernel.h"
#include "batch_norm_relu.h"
#include "batch_norm_walk.h"

namespace cnnext::CNNEXT_ISA {
namespace {

// The coefficients of one vector of columns, or of one channel in all lanes.
template <typename C>
struct GateVectors {
  Vec<C> center, scale, gate;
};

// n lanes of g at index i; x is the vector there.
template <BatchNormGate kGate, typename T, typename C = compute_t<T>>
CNNEXT_INLINE Vec<C> gradient_at(const BatchNormGradient<T>& gradient, int64_t i, int64_t n, Vec<C> x,
                                 const GateVectors<C>& vectors) {
  const Vec<C> grad = load_first(gradient.grad + i, n);
  if constexpr (kGate == BatchNormGate::input) {
    return let_through<C>(grad, normalised<C>(x, vectors.center, vectors.scale, vectors.gate));
  } else if constexpr (kGate == BatchNormGate::output) {
    return let_through<C>(grad, load_first(gradient.output + i, n));
  } else {
    return grad;
  }
}

// ---- sums
// ---------------------------------------------------------------------------------------------------

// Channel c in NCHW.
template <typename T, BatchNormGate kGate>
void sums_of_channel(Patches patch, const BatchNormGradient<T>& gradient,
                     const BatchNormCoefficients<compute_t<T>>& coefficients, int64_t c, double& total_grad,
                     double& total_product) {
  using C = compute_t<T>;
  using S = sum_t<T>;
  const GateVectors<C> vectors{broadcast(coefficients.center[c]), broadcast(coefficients.scale[c]),
                               broadcast(coefficients.gate[c])};
  const Vec<S> centers = broadcast(static_cast<S>(coefficients.center[c]));
  total_grad = total_product = 0;
  while (patch.next()) {
    Vec<S> sums[kAccumulators]{}, products[kAccumulators]{};
    for (int64_t r = 0; r < patch.runs; ++r) {
      const int64_t run = patch.offset + r * patch.pitch;
      for_each_vector_once<C>(patch.length, [&](int64_t i, int64_t skip, int64_t n, int j) {
        const Vec<C> x = load_first(gradient.x + run + i, n);
        const Vec<C> g = gradient_at<kGate>(gradient, run + i, n, x, vectors);
        add_to_sums<T>(counted<C>(g, skip, n), x, j, [&](Vec<S> g_part, Vec<S> x_part, int sum) {
          sums[sum] += g_part;
          products[sum] = g_part * (x_part - centers) + products[sum];
        });
      });
    }
    total_grad += total<S>(sums);
    total_product += total<S>(products);
  }
}

// `rows` rows of a strip of kVectors vectors in NHWC, the first at index `at` of the tensors and column c; a
// single vector may be cut to `width` channels.
template <typename T, BatchNormGate kGate, int kVectors, typename C = compute_t<T>>
void sums_of_strip(const BatchNormGradient<T>& gradient, const BatchNormCoefficients<C>& coefficients,
                   int64_t at, int64_t c, int64_t pitch, int64_t rows, int64_t width, C* sum, C* product) {
  constexpr int L = kLanes<C>;
  const int64_t n = kVectors == 1 ? width : L;
  Vec<C> s[kVectors]{}, q[kVectors]{};
  GateVectors<C> vectors[kVectors]{};
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j) {
    vectors[j].center = load_first(coefficients.center + c + j * L, n);
    if (kGate != BatchNormGate::input) continue;
    vectors[j].scale = load_first(coefficients.scale + c + j * L, n);
    vectors[j].gate = load_first(coefficients.gate + c + j * L, n);
  }
  for (int64_t r = 0; r < rows; ++r, at += pitch) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      const Vec<C> x = load_first(gradient.x + at + j * L, n);
      const Vec<C> g = gradient_at<kGate>(gradient, at + j * L, n, x, vectors[j]);
      s[j] += g;
      q[j] = g * (x - vectors[j].center) + q[j];
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j) {
    store(sum + j * L, s[j]);
    store(product + j * L, q[j]);
  }
}

template <typename T, BatchNormGate kGate>
void sums_channels_last(const BatchNormShape& shape, const BatchNormBlock& block,
                        const BatchNormGradient<T>& gradient,
                        const BatchNormCoefficients<compute_t<T>>& coefficients, double* total_grad,
                        double* total_product) {
  using C = compute_t<T>;
  C sum[kStripWidth<C>], product[kStripWidth<C>];
  for (int64_t c = block.c_begin; c < block.c_end; ++c) total_grad[c] = total_product[c] = 0;
  for (int64_t row = block.begin; row < block.end; row += kAdditions) {
    const int64_t rows = smaller(kAdditions, block.end - row);
    for (int64_t c = block.c_begin, width; c < block.c_end; c += width) {
      const bool whole = block.c_end - c >= kStripWidth<C>;
      width = whole ? kStripWidth<C> : smaller<int64_t>(kLanes<C>, block.c_end - c);
      (whole ? sums_of_strip<T, kGate, kAccumulators>
             : sums_of_strip<T, kGate, 1>)(gradient, coefficients, row * shape.c + c, c, shape.c, rows, width,
                                           sum, product);
      for (int64_t j = 0; j < width; ++j) {
        total_grad[c + j] += static_cast<double>(sum[j]);
        total_product[c + j] += static_cast<double>(product[j]);
      }
    }
  }
}

template <typename T, BatchNormGate kGate>
void sums_gated(const BatchNormShape& shape, const BatchNormBlock& block,
                const BatchNormGradient<T>& gradient, const BatchNormCoefficients<compute_t<T>>& coefficients,
                double* sums) {
  if (shape.channels_last) {
    return sums_channels_last<T, kGate>(shape, block, gradient, coefficients, sums, sums + shape.c);
  }
  const Patches patches(shape, block, kBlockValues<compute_t<T>>);
  for (int64_t c = block.c_begin; c < block.c_end; ++c) {
    sums_of_channel<T, kGate>(patches.of_channel(c), gradient, coefficients, c, sums[c], sums[shape.c + c]);
  }
}

template <typename T>
void sums(const BatchNormShape& shape, const BatchNormBlock& block, const BatchNormGradient<T>& gradient,
          const BatchNormCoefficients<compute_t<T>>& coefficients, double* sums) {
  const auto gated = gradient.gate == BatchNormGate::open    ? sums_gated<T, BatchNormGate::open>
                     : gradient.gate == BatchNormGate::input ? sums_gated<T, BatchNormGate::input>
                                                             : sums_gated<T, BatchNormGate::output>;
  gated(shape, block, gradient, coefficients, sums);
}

// ---- per channel
// --------------------------------------------------------------------------------------------

template <typename C>
void centers(const BatchNormShape& shape, const double* mean, C* center) {
  for (int64_t c = 0; c < shape.channels(); ++c) center[c] = static_cast<C>(mean[c]);
  spread(shape, center);
}

// Adds the other chunks to the first, then the columns of each channel.
void add_columns(const BatchNormShape& shape, const BatchNormChunks& chunks, int64_t c_begin, int64_t c_end,
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
void add_up(const BatchNormShape& shape, const BatchNormChunks& chunks, int64_t c_begin, int64_t c_end,
            const BatchNormChannels& channels, double* partial, C* grad_weight, C* grad_bias) {
  double *sum = partial, *product = partial + shape.c;
  add_columns(shape, chunks, c_begin, c_end, sum, product);
  for (int64_t c = c_begin; c < c_end / shape.fold; ++c) {
    product[c] /= __builtin_sqrt(channels.var[c] + channels.eps);
    grad_weight[c] = static_cast<C>(product[c]);
    grad_bias[c] = static_cast<C>(sum[c]);
  }
}

template <typename C>
void coefficients(const BatchNormShape& shape, const BatchNormChannels& channels, int64_t c_begin,
                  int64_t c_end, const double* sum, const double* sum_normal, double share,
                  const BatchNormCoefficients<C>& result) {
  for (int64_t c = c_begin; c < c_end / shape.fold; ++c) {
    const double inverse = 1 / __builtin_sqrt(channels.var[c] + channels.eps);
    const double scale = channels.weight ? channels.weight[c] * inverse : inverse;
    result.scale[c] = static_cast<C>(scale);
    result.slope[c] = static_cast<C>(-scale * inverse * sum_normal[c] * share);
    result.offset[c] = static_cast<C>(-scale * sum[c] * share);
  }
  spread(shape, result.scale);
  spread(shape, result.slope);
  spread(shape, result.offset);
}

// ---- the gradient of x
// --------------------------------------------------------------------------------------

// n lanes at index i of the tensors.
template <BatchNormGate kGate, bool kTraining, typename T, typename C = compute_t<T>>
CNNEXT_INLINE void apply_at(const BatchNormGradient<T>& gradient, int64_t i, int64_t n,
                            const GateVectors<C>& vectors, Vec<C> slope, Vec<C> offset, T* grad_x,
                            T* grad_residual) {
  Vec<C> x{};
  if (kTraining || kGate == BatchNormGate::input) x = load_first(gradient.x + i, n);
  const Vec<C> g = gradient_at<kGate>(gradient, i, n, x, vectors);
  if (kGate == BatchNormGate::output) store_first(grad_residual + i, g, n);
  Vec<C> v = g * vectors.scale;
  if (kTraining) v = (x - vectors.center) * slope + (v + offset);
  store_first(grad_x + i, v, n);
}

// From the end to the beginning: what `sums` read last is still in the cache.
template <typename T, BatchNormGate kGate, bool kTraining>
void apply_channels_last(const BatchNormShape& shape, const BatchNormBlock& block,
                         const BatchNormGradient<T>& gradient,
                         const BatchNormCoefficients<compute_t<T>>& coefficients, T* grad_x,
                         T* grad_residual) {
  using C = compute_t<T>;
  const BatchNormCoefficients<C> from = coefficients;
  for (int64_t row = block.end; row-- > block.begin;) {
    for_each_vector<C>(block.c_begin, block.c_end, [&](int64_t c, int64_t n) {
      const auto of = [&](const C* values) { return load_first(values + c, n); };
      GateVectors<C> vectors{of(from.center), of(from.scale), Vec<C>{}};
      if (kGate == BatchNormGate::input) vectors.gate = of(from.gate);
      apply_at<kGate, kTraining>(gradient, row * shape.c + c, n, vectors, of(from.slope), of(from.offset),
                                 grad_x, grad_residual);
    });
  }
}

template <typename T, BatchNormGate kGate, bool kTraining>
void apply_nchw(const BatchNormShape& shape, const BatchNormBlock& block,
                const BatchNormGradient<T>& gradient, const BatchNormCoefficients<compute_t<T>>& coefficients,
                T* grad_x, T* grad_residual) {
  using C = compute_t<T>;
  for (Patches patch(shape, block, block.end - block.begin); patch.next();) {
    for (int64_t c = block.c_begin; c < block.c_end; ++c) {
      const auto of = [&](const C* values) { return broadcast(values[c]); };
      const GateVectors<C> vectors{of(coefficients.center), of(coefficients.scale), of(coefficients.gate)};
      const Vec<C> slope = of(coefficients.slope), offset = of(coefficients.offset);
      for (int64_t r = patch.runs; r-- > 0;) {
        const int64_t run = patch.offset + c * shape.hw + r * patch.pitch;
        for_each_vector<C>(0, patch.length, [&](int64_t i, int64_t n) {
          apply_at<kGate, kTraining>(gradient, run + i, n, vectors, slope, offset, grad_x, grad_residual);
        });
      }
    }
  }
}

template <typename T, BatchNormGate kGate, bool kTraining>
void apply_gated(const BatchNormShape& shape, const BatchNormBlock& block,
                 const BatchNormGradient<T>& gradient,
                 const BatchNormCoefficients<compute_t<T>>& coefficients, T* grad_x, T* grad_residual) {
  (shape.channels_last
       ? apply_channels_last<T, kGate, kTraining>
       : apply_nchw<T, kGate, kTraining>)(shape, block, gradient, coefficients, grad_x, grad_residual);
}

template <typename T>
void apply(const BatchNormShape& shape, const BatchNormBlock& block, const BatchNormGradient<T>& gradient,
           const BatchNormCoefficients<compute_t<T>>& coefficients, bool training, T* grad_x,
           T* grad_residual) {
  const auto gated = !training                               ? apply_gated<T, BatchNormGate::open, false>
                     : gradient.gate == BatchNormGate::open  ? apply_gated<T, BatchNormGate::open, true>
                     : gradient.gate == BatchNormGate::input ? apply_gated<T, BatchNormGate::input, true>
                                                             : apply_gated<T, BatchNormGate::output, true>;
  gated(shape, block, gradient, coefficients, grad_x, grad_residual);
}

}  // namespace

template <typename T>
const BatchNormBackwardKernels<T>& batch_norm_backward_kernels() {
  using C = compute_t<T>;
  static constexpr BatchNormBackwardKernels<T> table{centers<C>, sums<T>, add_up<C>, coefficients<C>,
                                                     apply<T>};
  return table;
}

CNNEXT_INSTANTIATE_KERNELS(BatchNormBackwardKernels, batch_norm_backward_kernels)

}  // namespace cnnext::CNNEXT_ISA
