// batch_norm on the CPU: what batch_norm_kernel.cpp and batch_norm_backward_kernel.cpp offer for each
// instruction set.
//
// Per-channel quantities (parameters, statistics, sums) come in and are merged in double, whatever the
// storage type: there are only c of them. Values are calculated in compute_t<T>.
#pragma once

#include <cstdint>

#include "../common/math.h"
#include "simd/isa.h"

namespace cnnext {

// Tensors are dense: [n, c, hw], or [n, hw, c] where channels_last. Each run of `fold` neighbours in c makes
// one channel of the op: images in NCHW so small that they would not fill a vector are taken for n rows of
// c·hw columns, fold = hw. Below, a column is one of c, a channel one of c / fold.
struct BatchNormShape {
  int64_t n, c, hw;
  bool channels_last;
  int64_t fold;
  int64_t values() const { return n * hw; }  // per column
  int64_t channels() const { return c / fold; }
};

// The values [begin, end) of [0, n·hw), counted image by image, of the columns [c_begin, c_end).
struct BatchNormBlock {
  int64_t begin, end, c_begin, c_end;
};

// How a reduction cuts the values of every column: `count` chunks of `length` values, the last one shorter.
// It follows from the shape alone, so that sums do not depend on the number of threads.
struct BatchNormChunks {
  int64_t count, length;
};

// One value per column each. Forward: y = (x − center)·scale + offset.
// Backward: grad_x = g·scale + (x − center)·slope + offset, and (x − center)·scale + gate is what the ReLU
// saw.
template <typename C>
struct BatchNormCoefficients {
  C *center, *scale, *slope, *offset, *gate;
};

// Which gradients the backward pass lets through: all of them, those where batch norm made something positive
// of x, or those where `output` is positive.
enum class BatchNormGate { open, input, output };

// What the backward pass reads; g is `grad` where the gate lets it through, else zero.
template <typename T>
struct BatchNormGradient {
  const T *grad, *x, *output;
  BatchNormGate gate;
};

// The parameters and statistics of the channels; weight and bias may be null.
struct BatchNormChannels {
  const double *weight, *bias, *mean, *var;
  double eps;
};

template <typename T>
struct BatchNormKernels {
  using C = compute_t<T>;

  // to[i] = from[i · stride]
  void (*widen)(const T* from, int64_t stride, double* to, int64_t count);

  // Σx and Σ(x − mean of the block)² of a block's columns into sums[0][c] and sums[1][c].
  void (*moments)(const BatchNormShape& shape, const BatchNormBlock& block, const T* x, double* sums);
  // Merges partial [parts][2][c], as `moments` leaves it for parts of counts[part] values, for the columns
  // [c_begin, c_end): writes mean and biased variance of the channels, rounded into mean and var and exactly
  // into partial[0]. Only all columns together can be folded into channels.
  void (*merge_moments)(const BatchNormShape& shape, int64_t parts, const int64_t* counts, int64_t c_begin,
                        int64_t c_end, double* partial, C* mean, C* var);
  void (*coefficients)(const BatchNormShape& shape, const BatchNormChannels& channels, int64_t c_begin,
                       int64_t c_end, const BatchNormCoefficients<C>& result);
  // y, plus `residual` where that is not null, and then the ReLU if that is asked for.
  void (*apply)(const BatchNormShape& shape, const BatchNormBlock& block, const T* x,
                const BatchNormCoefficients<C>& coefficients, const T* residual, bool relu, T* y);
  // y itself, plus `residual` where that is not null, and then the ReLU if that is asked for, in place.
  void (*finish)(const BatchNormShape& shape, const BatchNormBlock& block, const T* residual, bool relu,
                 T* y);

  // running ← (1 − momentum)·running + momentum·batch, with the variance made unbiased from `count` values.
  void (*update)(T* running_mean, int64_t mean_stride, T* running_var, int64_t var_stride, const double* mean,
                 const double* var, int64_t c, int64_t count, double momentum);
};

template <typename T>
struct BatchNormBackwardKernels {
  using C = compute_t<T>;

  // mean into center, column by column.
  void (*centers)(const BatchNormShape& shape, const double* mean, C* center);
  // Σg and Σg·(x − center) of a block's columns into sums[0][c] and sums[1][c].
  void (*sums)(const BatchNormShape& shape, const BatchNormBlock& block, const BatchNormGradient<T>& gradient,
               const BatchNormCoefficients<C>& coefficients, double* sums);
  // Adds up partial [chunks][2][c], as `sums` leaves it: Σg and Σg·x̂ of the channels, exactly into partial[0]
  // and rounded into grad_bias and grad_weight.
  void (*add_up)(const BatchNormShape& shape, const BatchNormChunks& chunks, int64_t c_begin, int64_t c_end,
                 const BatchNormChannels& channels, double* partial, C* grad_weight, C* grad_bias);
  // From those sums of the channels, scale, slope and offset; share is 1 / values of a channel, or 0 where
  // the statistics are constants.
  void (*coefficients)(const BatchNormShape& shape, const BatchNormChannels& channels, int64_t c_begin,
                       int64_t c_end, const double* sum, const double* sum_normal, double share,
                       const BatchNormCoefficients<C>& result);
  // Without training grad_x = g·scale. g itself goes to grad_residual where that is not null.
  void (*apply)(const BatchNormShape& shape, const BatchNormBlock& block,
                const BatchNormGradient<T>& gradient, const BatchNormCoefficients<C>& coefficients,
                bool training, T* grad_x, T* grad_residual);
};

CNNEXT_DECLARE_KERNELS(BatchNormKernels, batch_norm_kernels)
CNNEXT_DECLARE_KERNELS(BatchNormBackwardKernels, batch_norm_backward_kernels)

}  // namespace cnnext
