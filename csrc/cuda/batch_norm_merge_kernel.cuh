// batch_norm, what is done once for each channel: chunks are merged, and parameters, statistics and sums
// become the coefficients that the passes over tensors use.
//
// In double, whatever the storage type: there are only c channels. A block merges the chunks of 32 channels,
// which its warps divide among them. With the mean of all chunks known first, the variance is that inside the
// chunks and that of their means (Chan, Golub and LeVeque 1983), without a division for each.
#pragma once

#include "batch_norm_config.cuh"
#include "device/convert.cuh"
#include "device/shared_memory.cuh"

namespace cnnext {

// A tensor of one value per channel, of any floating dtype and stride, read in double.
struct ChannelValues {
  enum Kind { kFloat, kDouble, kHalf, kBFloat16 };

  const void* data;  // null: an absent optional tensor
  int64_t stride;
  Kind kind;

  CNNEXT_DEVICE double at(int64_t channel) const {
    const int64_t i = channel * stride;
    switch (kind) {
      case kDouble:
        return static_cast<const double*>(data)[i];
      case kHalf:
        return device::to_compute(static_cast<const __half*>(data)[i]);
      case kBFloat16:
        return device::to_compute(static_cast<const __nv_bfloat16*>(data)[i]);
      default:
        return static_cast<const float*>(data)[i];
    }
  }

  CNNEXT_DEVICE double at_or(int64_t channel, double otherwise) const {
    return data ? at(channel) : otherwise;
  }
};

// One value per channel each, [c]. Forward: y = (x − center)·scale + offset, exact where x is near the mean,
// which x·scale + (bias − mean·scale) would not be. Backward: grad_x = grad·scale + (x − center)·slope +
// offset.
template <class C>
struct BatchNormCoefficients {
  C *center, *scale, *offset, *slope;
};

inline constexpr int kMergeThreads = 256;
inline constexpr int kMergeChannels = device::kWarpSize;
inline constexpr int kMergeWarps = kMergeThreads / device::kWarpSize;

struct MergeSums {
  double of_warp[kMergeWarps][kMergeChannels];
};

// Rows of partial [chunks][2][c] for a thread's channel, of the chunks [begin, end), which the warps of a
// block divide among them. All of the block must call what sums.
class BatchNormChunks {
 public:
  CNNEXT_DEVICE BatchNormChunks(const BatchNormPlan& plan, int begin, int end)
      : plan_(plan),
        begin_(begin),
        end_(end),
        lane_(static_cast<int>(threadIdx.x) % device::kWarpSize),
        warp_(static_cast<int>(threadIdx.x) / device::kWarpSize) {}
  CNNEXT_DEVICE explicit BatchNormChunks(const BatchNormPlan& plan) : BatchNormChunks(plan, 0, plan.chunks) {}

  CNNEXT_DEVICE int64_t channel() const { return int64_t{blockIdx.x} * kMergeChannels + lane_; }
  CNNEXT_DEVICE bool active() const { return channel() < plan_.c; }
  CNNEXT_DEVICE bool leads() const { return active() && warp_ == 0; }
  // Of one chunk, and of all of these.
  CNNEXT_DEVICE double values(int chunk) const {
    return static_cast<double>(smaller(plan_.chunk, plan_.values - plan_.chunk * chunk));
  }
  CNNEXT_DEVICE double values() const {
    return static_cast<double>(smaller(plan_.chunk * end_, plan_.values) - plan_.chunk * begin_);
  }

  // Σ term(value, chunk) over the chunks' row 0 or 1, in every thread of the channel.
  template <class Term>
  CNNEXT_DEVICE double sum(const double* partial, int row, const Term& term) const {
    auto& shared = device::static_shared<MergeSums>();
    double total = 0;
    if (active()) {
      for (int chunk = begin_ + warp_; chunk < end_; chunk += kMergeWarps) {
        total += term(partial[(int64_t{chunk} * 2 + row) * plan_.c + channel()], chunk);
      }
    }
    __syncthreads();  // the sums may still be read by the call before this one
    shared.of_warp[warp_][lane_] = total;
    __syncthreads();
    total = shared.of_warp[0][lane_];
    for (int warp = 1; warp < kMergeWarps; ++warp) total += shared.of_warp[warp][lane_];
    return total;
  }

  CNNEXT_DEVICE double sum(const double* partial, int row) const {
    return sum(partial, row, [](double value, int) { return value; });
  }

  // Σ(x − mean)² of all, where their sum is `total`.
  CNNEXT_DEVICE double squares(const double* partial, double total) const {
    const double mean = total / values(), inside = sum(partial, 1);
    if (end_ - begin_ == 1) return inside;
    return inside + sum(partial, 0, [&](double sum_of_chunk, int chunk) {
             const double n = values(chunk), distance = sum_of_chunk / n - mean;
             return n * (distance * distance);
           });
  }

 private:
  const BatchNormPlan& plan_;
  int begin_, end_;
  int lane_, warp_;
};

template <class C>
CNNEXT_DEVICE void write_forward_coefficients(int64_t channel, double mean, double var,
                                              const ChannelValues& weight, const ChannelValues& bias,
                                              double eps, const BatchNormCoefficients<C>& result) {
  const double scale = weight.at_or(channel, 1) / sqrt(var + eps);
  const C center = static_cast<C>(mean);
  const double lost =
      mean - static_cast<double>(center);  // by rounding; NaN for ∞ − ∞, where nothing was lost
  result.center[channel] = center;
  result.scale[channel] = static_cast<C>(scale);
  result.offset[channel] = static_cast<C>(bias.at_or(channel, 0) - (lost == lost ? lost * scale : 0));
}

// Many small chunks, those of a convolution's blocks, become few: `fold` of them one, by each row of blocks.
// Partial is double: a template, because a header's kernels must be.
template <class Partial>
__global__ void __launch_bounds__(kMergeThreads, 2)
    batch_norm_fold_moments_kernel(BatchNormPlan plan, int fold, const Partial* partial, Partial* folded) {
  const int begin = static_cast<int>(blockIdx.y) * fold;
  const BatchNormChunks chunks(plan, begin, smaller(begin + fold, plan.chunks));
  const double sum = chunks.sum(partial, 0), square = chunks.squares(partial, sum);
  if (!chunks.leads()) return;
  Partial* of_chunk = folded + int64_t{blockIdx.y} * 2 * plan.c + chunks.channel();
  of_chunk[0] = sum;
  of_chunk[plan.c] = square;
}

// The chunks of batch_norm_moments_kernel become mean and biased variance, and coefficients where asked for.
template <class C>
__global__ void __launch_bounds__(kMergeThreads, 2)
    batch_norm_merge_moments_kernel(BatchNormPlan plan, const double* partial, ChannelValues weight,
                                    ChannelValues bias, double eps, C* mean, C* var,
                                    BatchNormCoefficients<C> coefficients) {
  const BatchNormChunks chunks(plan);
  const double sum = chunks.sum(partial, 0), square = chunks.squares(partial, sum);
  if (!chunks.leads()) return;
  const int64_t channel = chunks.channel();
  const double total = sum / chunks.values(), variance = square < 0 ? 0 : square / chunks.values();
  mean[channel] = static_cast<C>(total);  // NaN stays in both
  var[channel] = static_cast<C>(variance);
  if (coefficients.center == nullptr) return;
  write_forward_coefficients(channel, total, variance, weight, bias, eps, coefficients);
}

// Without training: the running statistics as they are. A thread for each channel.
template <class C>
__global__ void __launch_bounds__(kMergeThreads)
    batch_norm_coefficients_kernel(int64_t c, ChannelValues mean, ChannelValues var, ChannelValues weight,
                                   ChannelValues bias, double eps, BatchNormCoefficients<C> coefficients) {
  const int64_t channel = int64_t{blockIdx.x} * kMergeThreads + threadIdx.x;
  if (channel >= c) return;
  write_forward_coefficients(channel, mean.at(channel), var.at(channel), weight, bias, eps, coefficients);
}

// The chunks of batch_norm_backward_sums_kernel become the gradients of the parameters, and the coefficients
// of grad_x.
template <class C>
__global__ void __launch_bounds__(kMergeThreads, 2)
    batch_norm_merge_gradients_kernel(BatchNormPlan plan, const double* partial, ChannelValues weight,
                                      ChannelValues mean, ChannelValues var, double eps, bool training,
                                      C* grad_weight, C* grad_bias, BatchNormCoefficients<C> coefficients) {
  const BatchNormChunks chunks(plan);
  const double sum = chunks.sum(partial, 0), product = chunks.sum(partial, 1);
  if (!chunks.leads()) return;
  const int64_t channel = chunks.channel();
  const double inverse = 1 / sqrt(var.at(channel) + eps), scale = weight.at_or(channel, 1) * inverse;
  const double statistics = training ? 1 / static_cast<double>(plan.values) : 0;
  grad_weight[channel] = static_cast<C>(product * inverse);
  grad_bias[channel] = static_cast<C>(sum);
  coefficients.center[channel] = static_cast<C>(mean.at(channel));
  coefficients.scale[channel] = static_cast<C>(scale);
  coefficients.slope[channel] = static_cast<C>(-scale * inverse * inverse * product * statistics);
  coefficients.offset[channel] = static_cast<C>(-scale * sum * statistics);
}

// The coefficients of grad_x from sums of `count` values of a channel, of any number of processes: those of
// the gradient and of its products with the normalised input.
template <class C>
__global__ void __launch_bounds__(kMergeThreads)
    batch_norm_gradient_coefficients_kernel(int64_t c, ChannelValues sum, ChannelValues sum_normal,
                                            ChannelValues weight, ChannelValues mean, ChannelValues var,
                                            double eps, double count, BatchNormCoefficients<C> coefficients) {
  const int64_t channel = int64_t{blockIdx.x} * kMergeThreads + threadIdx.x;
  if (channel >= c) return;
  const double inverse = 1 / sqrt(var.at(channel) + eps), scale = weight.at_or(channel, 1) * inverse;
  coefficients.center[channel] = static_cast<C>(mean.at(channel));
  coefficients.scale[channel] = static_cast<C>(scale);
  coefficients.slope[channel] = static_cast<C>(-scale * inverse * sum_normal.at(channel) / count);
  coefficients.offset[channel] = static_cast<C>(-scale * sum.at(channel) / count);
}

// running ← (1 − momentum)·running + momentum·batch, with the variance made unbiased from `count` values.
template <class T>
__global__ void __launch_bounds__(kMergeThreads)
    batch_norm_update_kernel(int64_t c, T* running_mean, int64_t mean_stride, T* running_var,
                             int64_t var_stride, ChannelValues mean, ChannelValues var, double unbiased,
                             double momentum) {
  const int64_t channel = int64_t{blockIdx.x} * kMergeThreads + threadIdx.x;
  if (channel >= c) return;
  const auto blend = [&](T& running, double batch) {
    const double old = static_cast<double>(device::to_compute(running));
    running = device::from_compute<T>(static_cast<compute_t<T>>((1 - momentum) * old + momentum * batch));
  };
  blend(running_mean[channel * mean_stride], mean.at(channel));
  blend(running_var[channel * var_stride], var.at(channel) * unbiased);
}

}  // namespace cnnext
