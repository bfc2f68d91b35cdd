// batch_norm, forward (Ioffe and Szegedy 2015).   y = (x − mean) / sqrt(var + eps) · weight + bias, per
// channel; for batch_norm_relu then y + residual and the ReLU in the same pass.
#include "batch_norm_kernel.h"

#include "batch_norm_moments.h"
#include "batch_norm_relu.h"

namespace cnnext::CNNEXT_ISA {
namespace {

template <typename T>
void widen(const T* from, int64_t stride, double* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<double>(to_compute(from[i * stride]));
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

template <typename C>
CNNEXT_INLINE Vec<C> finished(Vec<C> v, Vec<C> residual, bool has_residual, bool relu) {
  if (has_residual) v += residual;
  return relu ? rectified<C>(v) : v;
}

// From the end to the beginning: what `moments` read last is still in the cache.
template <typename T, bool kResidual, bool kRelu>
void apply_channels_last(const BatchNormShape& shape, const BatchNormBlock& block, const T* x,
                         const BatchNormCoefficients<compute_t<T>>& coefficients, const T* residual, T* y) {
  using C = compute_t<T>;
  const C *center = coefficients.center, *scale = coefficients.scale, *offset = coefficients.offset;
  for (int64_t row = block.end; row-- > block.begin;) {
    const T *x_row = x + row * shape.c, *residual_row = kResidual ? residual + row * shape.c : nullptr;
    T* y_row = y + row * shape.c;
    for_each_vector<C>(block.c_begin, block.c_end, [&](int64_t c, int64_t n) {
      const Vec<C> v = normalised<C>(load_first(x_row + c, n), load_first(center + c, n),
                                     load_first(scale + c, n), load_first(offset + c, n));
      const Vec<C> r = kResidual ? load_first(residual_row + c, n) : Vec<C>{};
      store_first(y_row + c, finished<C>(v, r, kResidual, kRelu), n);
    });
  }
}

template <typename T, bool kResidual, bool kRelu>
void apply_nchw(const BatchNormShape& shape, const BatchNormBlock& block, const T* x,
                const BatchNormCoefficients<compute_t<T>>& coefficients, const T* residual, T* y) {
  using C = compute_t<T>;
  for (Patches patch(shape, block, block.end - block.begin); patch.next();) {
    for (int64_t c = block.c_begin; c < block.c_end; ++c) {
      const Vec<C> center = broadcast(coefficients.center[c]), scale = broadcast(coefficients.scale[c]),
                   offset = broadcast(coefficients.offset[c]);
      for (int64_t r = patch.runs; r-- > 0;) {
        const int64_t run = patch.offset + c * shape.hw + r * patch.pitch;
        const T *x_run = x + run, *residual_run = kResidual ? residual + run : nullptr;
        T* y_run = y + run;
        for_each_vector<C>(0, patch.length, [&](int64_t i, int64_t n) {
          const Vec<C> v = normalised<C>(load_first(x_run + i, n), center, scale, offset);
          const Vec<C> other = kResidual ? load_first(residual_run + i, n) : Vec<C>{};
          store_first(y_run + i, finished<C>(v, other, kResidual, kRelu), n);
        });
      }
    }
  }
}

template <typename T>
void apply(const BatchNormShape& shape, const BatchNormBlock& block, const T* x,
           const BatchNormCoefficients<compute_t<T>>& coefficients, const T* residual, bool relu, T* y) {
  using Apply = void (*)(const BatchNormShape&, const BatchNormBlock&, const T*,
                         const BatchNormCoefficients<compute_t<T>>&, const T*, T*);
  static constexpr Apply kApply[2][2][2] = {
      {{apply_nchw<T, false, false>, apply_nchw<T, false, true>},
       {apply_nchw<T, true, false>, apply_nchw<T, true, true>}},
      {{apply_channels_last<T, false, false>, apply_channels_last<T, false, true>},
       {apply_channels_last<T, true, false>, apply_channels_last<T, true, true>}},
  };
  kApply[shape.channels_last][residual != nullptr][relu](shape, block, x, coefficients, residual, y);
}

// In place, so that no vector may reach back over values that are finished.
template <typename T>
void finish_run(const T* residual, bool relu, T* y, int64_t length) {
  using C = compute_t<T>;
  for (int64_t i = 0; i < length; i += kLanes<C>) {
    const int64_t n = length - i;
    const Vec<C> r = residual ? load_first(residual + i, n) : Vec<C>{};
    store_first(y + i, finished<C>(load_first(y + i, n), r, residual != nullptr, relu), n);
  }
}

template <typename T>
void finish(const BatchNormShape& shape, const BatchNormBlock& block, const T* residual, bool relu, T* y) {
  const auto run = [&](int64_t at, int64_t length) {
    finish_run(residual ? residual + at : nullptr, relu, y + at, length);
  };
  const int64_t channels = block.c_end - block.c_begin;
  if (shape.channels_last) {
    if (channels == shape.c) return run(block.begin * shape.c, (block.end - block.begin) * channels);
    for (int64_t row = block.begin; row < block.end; ++row) run(row * shape.c + block.c_begin, channels);
    return;
  }
  for (Patches patch(shape, block, block.end - block.begin); patch.next();) {
    for (int64_t c = block.c_begin; c < block.c_end; ++c) {
      for (int64_t r = 0; r < patch.runs; ++r)
        run(patch.offset + c * shape.hw + r * patch.pitch, patch.length);
    }
  }
}

}  // namespace

template <typename T>
const BatchNormKernels<T>& batch_norm_kernels() {
  using C = compute_t<T>;
  static constexpr BatchNormKernels<T> table{widen<T>, moments<T>, merge_moments<C>, coefficients<C>,
                                             apply<T>, finish<T>,  update<T>};
  return table;
}

CNNEXT_INSTANTIATE_KERNELS(BatchNormKernels, batch_norm_kernels)

}  // namespace cnnext::CNNEXT_ISA
