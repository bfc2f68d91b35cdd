// batch_norm (Ioffe and Szegedy 2015), the passes over tensors.   y = (x − mean) / sqrt(var + eps) · weight +
// bias
//
// With x̂ = (x − mean) / sqrt(var + eps) and means over the values of a channel, the gradients are
//   grad_bias = Σ grad        grad_weight = Σ grad·x̂
//   grad_x = weight / sqrt(var + eps) · (grad − mean(grad) − x̂·mean(grad·x̂))
// where the last two terms belong to the batch's statistics and vanish without training.
//
// Statistics are of one pass over memory. A block takes a chunk of some channels, and finds a shift near
// their mean in its first values, which it still has in registers; then it sums x − shift and (x − shift)² so
// that a large mean costs no digits. batch_norm_merge_kernel.cuh puts the chunks together. The order of every
// sum follows from the shape and the device: the bits are the same every time. Limit: (x − mean)² must not
// overflow the compute type.
#pragma once

#include <type_traits>

#include "batch_norm_merge_kernel.cuh"
#include "batch_norm_relu.cuh"

namespace cnnext {

// A shift must be finite: x − ∞ would turn an infinite mean, which is what torch gives, into NaN.
template <class C>
CNNEXT_DEVICE C finite_or_zero(C value) {
  return value - value == 0 ? value : C{0};
}

// Two results of each channel of a block on their way to partial [chunks][2][c].
struct BatchNormResults {
  double values[2][kBatchNormThreads];
};

// The threads that lead a channel have put its results into `results`; neighbours write neighbouring
// channels.
template <class Walk>
CNNEXT_DEVICE void write_partial(const Walk& walk, const BatchNormPlan& plan, const BatchNormResults& results,
                                 double* partial) {
  __syncthreads();
  const int slot = static_cast<int>(threadIdx.x);
  const int64_t channel = walk.first_channel() + slot;
  if (slot >= walk.block_channels() || channel >= plan.c) return;
  double* of_chunk = partial + walk.chunk() * 2 * plan.c + channel;
  of_chunk[0] = results.values[0][slot];
  of_chunk[plan.c] = results.values[1][slot];
}

// Σx and Σ(x − mean of the chunk)² of every chunk and channel.
template <class T, class Walk>
__global__ void __launch_bounds__(kBatchNormThreads, 2)
    batch_norm_moments_kernel(BatchNormPlan plan, const T* x, double* partial) {
  using C = compute_t<T>;
  constexpr int M = Walk::kSums;
  auto& shared = device::static_shared<BatchNormExchange<C, 2 * M>>();
  auto& results = device::static_shared<BatchNormResults>();
  const Walk walk(plan, blockIdx.x);
  BatchNormBatch<T, Walk> batch;
  C sum[M], square[M], shift[M];
  batch.load(walk, 0, x);
  batch.sum(sum, [&](int b, int i, int) { return batch(b, i); });
  ExactSum<C> firsts[M];
#pragma unroll
  for (int m = 0; m < M; ++m) firsts[m] = {sum[m], 0};
  walk.reduce(firsts, shared);
  const C of_first = static_cast<C>(walk.values_of_first_batch());
#pragma unroll
  for (int m = 0; m < M; ++m) shift[m] = finite_or_zero(firsts[m].value / of_first);

  ExactSum<C> sums[2 * M] = {};
  for (int64_t first = 0; first < batch.count; first += Walk::kBatch) {
    if (first > 0) batch.load(walk, first, x);
    batch.sum(sum, [&](int b, int i, int m) { return batch(b, i) - shift[m]; });
    batch.sum(square, [&](int b, int i, int m) {
      const C distance = batch(b, i) - shift[m];
      return distance * distance;
    });
#pragma unroll
    for (int m = 0; m < M; ++m) {
      sums[m].add(sum[m]);
      sums[M + m].add(square[m]);
    }
  }
  walk.reduce(sums, shared);
  if (walk.leads()) {
    const double n = static_cast<double>(walk.values());
#pragma unroll
    for (int m = 0; m < M; ++m) {
      const double total = sums[m].total();
      results.values[0][walk.slot(m)] = n * static_cast<double>(shift[m]) + total;
      results.values[1][walk.slot(m)] = sums[M + m].total() - total * total / n;
    }
  }
  write_partial(walk, plan, results, partial);
}

// value(channel) of each channel of the block, read by neighbours in turn; to be taken behind a barrier.
template <class Walk, class C, class Value>
CNNEXT_DEVICE void stage_channels(const Walk& walk, const BatchNormPlan& plan, BatchNormTile<C>& tile,
                                  const Value& value) {
  const int slot = static_cast<int>(threadIdx.x);
  const int64_t channel = walk.first_channel() + slot;
  if (slot < walk.block_channels() && channel < plan.c) tile.values[slot] = value(channel);
}

template <class Walk, class C>
CNNEXT_DEVICE void take_channels(const Walk& walk, const BatchNormTile<C>& tile, C (&to)[Walk::kSums]) {
#pragma unroll
  for (int m = 0; m < Walk::kSums; ++m) to[m] = walk.active() ? tile.values[walk.slot(m)] : C{0};
}

// Σgrad and Σgrad·(x − center) of a batch. In float32 the sums keep all that rounds off: the gradient of the
// weight is nothing but such a sum. 16-bit values carry more noise than it could lose, and double less.
template <class T, class Walk, class C = compute_t<T>>
CNNEXT_DEVICE void add_gradients(const BatchNormBatch<T, Walk>& grads, const BatchNormBatch<T, Walk>& inputs,
                                 const C (&centers)[Walk::kSums], ExactSum<C> (&sums)[2 * Walk::kSums]) {
  constexpr int M = Walk::kSums;
  if constexpr (std::is_same_v<T, float>) {
#pragma unroll
    for (int b = 0; b < Walk::kBatch; ++b) {
      if (!grads.holds(b)) break;
#pragma unroll
      for (int i = 0; i < Walk::kVector; ++i) {
        const int m = Walk::sum_of(i);
        sums[m].add(grads(b, i));
        sums[M + m].add_product(grads(b, i), inputs(b, i), centers[m]);
      }
    }
  } else {
    C sum[M], product[M];
    grads.sum(sum, [&](int b, int i, int) { return grads(b, i); });
    grads.sum(product, [&](int b, int i, int m) { return grads(b, i) * (inputs(b, i) - centers[m]); });
#pragma unroll
    for (int m = 0; m < M; ++m) {
      sums[m].add(sum[m]);
      sums[M + m].add(product[m]);
    }
  }
}

// Σgrad and Σgrad·(x − center) of every chunk and channel, of the gradients that the gate lets through; these
// are written too where asked for.
template <class T, class Walk>
__global__ void __launch_bounds__(kBatchNormThreads, 2)
    batch_norm_backward_sums_kernel(BatchNormPlan plan, const T* grad, const T* x, ChannelValues mean,
                                    BatchNormGate<T> gate, double* partial, T* gated) {
  using C = compute_t<T>;
  constexpr int M = Walk::kSums;
  auto& shared = device::static_shared<BatchNormExchange<C, 2 * M>>();
  auto& results = device::static_shared<BatchNormResults>();
  const Walk walk(plan, blockIdx.x);
  auto& tile = device::static_shared<BatchNormTile<C>>();
  stage_channels(walk, plan, tile, [&](int64_t channel) { return static_cast<C>(mean.at(channel)); });
  const BatchNormGateOfThread<T, Walk> relu(gate, walk, device::static_shared<GateTiles<C>>());
  __syncthreads();
  C centers[M];
  take_channels(walk, tile, centers);
  BatchNormBatch<T, Walk> grads, inputs;
  ExactSum<C> sums[2 * M] = {};
  for (int64_t first = 0; first < walk.count(); first += Walk::kBatch) {
    grads.load(walk, first, grad);
    inputs.load(walk, first, x);
    relu.close(walk, inputs, centers, grads);
    if (gated != nullptr) grads.store(walk, gated, [&](int b, int i, int) { return grads(b, i); });
    add_gradients<T, Walk>(grads, inputs, centers, sums);
  }
  walk.reduce(sums, shared);
  if (walk.leads()) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
      results.values[0][walk.slot(m)] = sums[m].total();
      results.values[1][walk.slot(m)] = sums[M + m].total();
    }
  }
  write_partial(walk, plan, results, partial);
}

// The blocks go backwards: what the pass before this one read last is still in L2.
CNNEXT_DEVICE int64_t last_block_first() { return gridDim.x - 1 - blockIdx.x; }

template <class C>
struct BatchNormCoefficientTiles {
  BatchNormTile<C> center, scale, offset, slope;
};

template <class Walk, class C>
CNNEXT_DEVICE void stage_coefficient(const Walk& walk, const BatchNormPlan& plan, const C* from,
                                     BatchNormTile<C>& tile) {
  stage_channels(walk, plan, tile, [&](int64_t channel) { return from[channel]; });
}

// y, with a residual added and rectified where asked for.
template <class T, class Walk>
__global__ void __launch_bounds__(kBatchNormThreads, 2)
    batch_norm_apply_kernel(BatchNormPlan plan, const T* x, BatchNormCoefficients<compute_t<T>> coefficients,
                            const T* residual, bool relu, T* y) {
  using C = compute_t<T>;
  auto& tiles = device::static_shared<BatchNormCoefficientTiles<C>>();
  const Walk walk(plan, last_block_first());
  stage_coefficient(walk, plan, coefficients.center, tiles.center);
  stage_coefficient(walk, plan, coefficients.scale, tiles.scale);
  stage_coefficient(walk, plan, coefficients.offset, tiles.offset);
  __syncthreads();
  C center[Walk::kSums], scale[Walk::kSums], offset[Walk::kSums];
  take_channels(walk, tiles.center, center);
  take_channels(walk, tiles.scale, scale);
  take_channels(walk, tiles.offset, offset);
  BatchNormBatch<T, Walk> batch, added{};
  for (int64_t first = 0; first < walk.count(); first += Walk::kBatch) {
    batch.load(walk, first, x);
    if (residual != nullptr) added.load(walk, first, residual);
    batch.store(walk, y, [&](int b, int i, int m) {
      C value = normalised(batch(b, i), center[m], scale[m], offset[m]);
      if (residual != nullptr) value += added(b, i);
      return relu ? rectified(value) : value;
    });
  }
}

// grad_x, and where asked for what the gate lets through of grad: the gradient of the residual.
template <class T, class Walk>
__global__ void __launch_bounds__(kBatchNormThreads, 2)
    batch_norm_backward_apply_kernel(BatchNormPlan plan, const T* grad, const T* x,
                                     BatchNormCoefficients<compute_t<T>> coefficients, BatchNormGate<T> gate,
                                     bool training, T* grad_x, T* grad_residual) {
  using C = compute_t<T>;
  auto& tiles = device::static_shared<BatchNormCoefficientTiles<C>>();
  const Walk walk(plan, last_block_first());
  stage_coefficient(walk, plan, coefficients.scale, tiles.scale);
  if (training) {
    stage_coefficient(walk, plan, coefficients.center, tiles.center);
    stage_coefficient(walk, plan, coefficients.offset, tiles.offset);
    stage_coefficient(walk, plan, coefficients.slope, tiles.slope);
  }
  const BatchNormGateOfThread<T, Walk> relu(gate, walk, device::static_shared<GateTiles<C>>());
  __syncthreads();
  C center[Walk::kSums]{}, scale[Walk::kSums], offset[Walk::kSums]{}, slope[Walk::kSums]{};
  take_channels(walk, tiles.scale, scale);
  if (training) {
    take_channels(walk, tiles.center, center);
    take_channels(walk, tiles.offset, offset);
    take_channels(walk, tiles.slope, slope);
  }
  BatchNormBatch<T, Walk> grads, inputs;
  for (int64_t first = 0; first < walk.count(); first += Walk::kBatch) {
    grads.load(walk, first, grad);
    if (training) {
      inputs.load(walk, first, x);
      relu.close(walk, inputs, center, grads);
      if (grad_residual != nullptr) {
        grads.store(walk, grad_residual, [&](int b, int i, int) { return grads(b, i); });
      }
      grads.store(walk, grad_x, [&](int b, int i, int m) {
        return (inputs(b, i) - center[m]) * slope[m] + (grads(b, i) * scale[m] + offset[m]);
      });
    } else {
      grads.store(walk, grad_x, [&](int b, int i, int m) { return grads(b, i) * scale[m]; });
    }
  }
}

}  // namespace cnnext
