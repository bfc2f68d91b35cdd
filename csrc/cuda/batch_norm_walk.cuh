// How a thread of batch_norm walks through its values, and how the threads of a channel add up what they
// have.
//
// Every value is at some vector i of a thread's walk, 0 ≤ i < count(). In NHWC the values of a vector belong
// to kSums channels of their own, in NCHW all to one.
#pragma once

#include "batch_norm_config.cuh"
#include "batch_norm_exact_sum.cuh"
#include "device/convert.cuh"
#include "device/shared_memory.cuh"
#include "device/vec_load.cuh"
#include "device/warp.cuh"

namespace cnnext {

// One value per channel of a block, which its threads read in the order of memory and then take as they need
// them.
template <class C>
struct BatchNormTile {
  C values[kBatchNormThreads];
};

// What threads exchange for M sums each.
template <class C, int M>
struct BatchNormExchange {
  ExactSum<C> sums[M][kBatchNormThreads / 2];
};

template <int N>
class ChannelsWalk {
 public:
  static constexpr int kVector = N, kSums = N, kBatch = batch_norm_batch(N);

  CNNEXT_DEVICE ChannelsWalk(const BatchNormPlan& plan, int64_t block)
      : width_(plan.width), c_(plan.c), chunk_(plan.by_groups.divide(block)) {
    const int64_t group = block - chunk_ * plan.groups;
    const int thread = static_cast<int>(threadIdx.x), lane = thread & (width_ - 1);
    slices_ = kBatchNormThreads / width_;
    slice_ = thread / width_;
    first_channel_ = group * width_ * N;
    lane_ = lane;
    channel_ = first_channel_ + lane * N;
    const int64_t begin = chunk_ * plan.chunk;
    values_ = smaller(plan.chunk, plan.values - begin);
    first_ = (begin + slice_) * c_ + channel_;
  }

  CNNEXT_DEVICE bool active() const { return channel_ < c_; }
  // Whether the thread speaks for its channels; channel(m) is number slot(m) of the block's.
  CNNEXT_DEVICE bool leads() const { return active() && slice_ == 0; }
  CNNEXT_DEVICE int slot(int m) const { return lane_ * N + m; }
  CNNEXT_DEVICE int64_t first_channel() const { return first_channel_; }
  CNNEXT_DEVICE int64_t channels() const { return c_; }
  CNNEXT_DEVICE int block_channels() const { return width_ * N; }
  CNNEXT_DEVICE int64_t channel(int i) const { return channel_ + i; }
  CNNEXT_DEVICE int64_t chunk() const { return chunk_; }
  CNNEXT_DEVICE int64_t values() const { return values_; }  // of each channel, of all threads together
  CNNEXT_DEVICE int64_t values_of_first_batch() const { return smaller<int64_t>(values_, kBatch * slices_); }
  CNNEXT_DEVICE int64_t count() const {
    return active() && values_ > slice_ ? (values_ - slice_ - 1) / slices_ + 1 : 0;
  }
  CNNEXT_DEVICE int64_t offset(int64_t i) const { return first_ + i * slices_ * c_; }
  static CNNEXT_DEVICE constexpr int sum_of(int value) { return value; }

  // Every thread gets the sums over the slices, added as a tree.
  template <class C, int M, int Room>
  CNNEXT_DEVICE void reduce(ExactSum<C> (&sums)[M], BatchNormExchange<C, Room>& shared) const {
    static_assert(M <= Room, "the exchange must have room for all sums");
    const int thread = static_cast<int>(threadIdx.x);
    for (int left = kBatchNormThreads / 2; left >= width_; left /= 2) {
      __syncthreads();
      if (thread >= left && thread < 2 * left) {
        for (int m = 0; m < M; ++m) shared.sums[m][thread - left] = sums[m];
      }
      __syncthreads();
      if (thread < left) {
        for (int m = 0; m < M; ++m) sums[m].add(shared.sums[m][thread]);
      }
    }
    __syncthreads();
    if (thread < width_) {
      for (int m = 0; m < M; ++m) shared.sums[m][thread] = sums[m];
    }
    __syncthreads();
    for (int m = 0; m < M; ++m) sums[m] = shared.sums[m][thread & (width_ - 1)];
  }

 private:
  int width_, slices_, slice_, lane_;
  int64_t c_, chunk_, first_channel_, channel_, values_, first_;
};

template <int N>
class PlanesWalk {
 public:
  static constexpr int kVector = N, kSums = 1, kBatch = batch_norm_batch(N);

  CNNEXT_DEVICE PlanesWalk(const BatchNormPlan& plan, int64_t block)
      : plan_(plan), chunk_(plan.by_groups.divide(block)) {
    const int64_t group = block - chunk_ * plan.groups;
    const int thread = static_cast<int>(threadIdx.x);
    member_ = thread & (plan.width - 1);
    first_channel_ = group * (kBatchNormThreads / plan.width);
    channel_ = first_channel_ + thread / plan.width;
    begin_ = chunk_ * plan.chunk;
    values_ = smaller(plan.chunk, plan.values - begin_);
  }

  CNNEXT_DEVICE bool active() const { return channel_ < plan_.c; }
  CNNEXT_DEVICE bool leads() const { return active() && member_ == 0; }
  CNNEXT_DEVICE int slot(int) const { return static_cast<int>(channel_ - first_channel_); }
  CNNEXT_DEVICE int64_t first_channel() const { return first_channel_; }
  CNNEXT_DEVICE int64_t channels() const { return plan_.c; }
  CNNEXT_DEVICE int block_channels() const { return kBatchNormThreads / plan_.width; }
  CNNEXT_DEVICE int64_t channel(int) const { return channel_; }
  CNNEXT_DEVICE int64_t chunk() const { return chunk_; }
  CNNEXT_DEVICE int64_t values() const { return values_; }
  CNNEXT_DEVICE int64_t values_of_first_batch() const {
    return smaller<int64_t>(values_, kBatch * N * plan_.width);
  }
  CNNEXT_DEVICE int64_t count() const {
    const int64_t vectors = values_ / N;
    return active() && vectors > member_ ? (vectors - member_ - 1) / plan_.width + 1 : 0;
  }
  CNNEXT_DEVICE int64_t offset(int64_t i) const {
    const int64_t value = begin_ + (member_ + i * plan_.width) * N, image = plan_.by_hw.divide(value);
    return (image * plan_.c + channel_) * plan_.hw + (value - image * plan_.hw);
  }
  static CNNEXT_DEVICE constexpr int sum_of(int) { return 0; }

  // Every thread gets the sums over its channel's threads: a butterfly in the warp, then the warps in order.
  template <class C, int M, int Room>
  CNNEXT_DEVICE void reduce(ExactSum<C> (&sums)[M], BatchNormExchange<C, Room>& shared) const {
    static_assert(M <= Room, "the exchange must have room for all sums");
    for (int lanes = device::kWarpSize / 2; lanes > 0; lanes /= 2) {
      for (int m = 0; m < M; ++m) {
        const ExactSum<C> other{__shfl_xor_sync(device::kFullWarp, sums[m].value, lanes),
                                __shfl_xor_sync(device::kFullWarp, sums[m].lost, lanes)};
        sums[m].add(other);
      }
    }
    if (plan_.width == device::kWarpSize) return;
    const int thread = static_cast<int>(threadIdx.x), warp = thread / device::kWarpSize;
    __syncthreads();
    if (thread % device::kWarpSize == 0) {
      for (int m = 0; m < M; ++m) shared.sums[m][warp] = sums[m];
    }
    __syncthreads();
    for (int m = 0; m < M; ++m) {
      sums[m] = shared.sums[m][0];
      for (int w = 1; w < kBatchNormThreads / device::kWarpSize; ++w) sums[m].add(shared.sums[m][w]);
    }
  }

 private:
  const BatchNormPlan& plan_;
  int member_;
  int64_t chunk_, first_channel_, channel_, begin_, values_;
};

}  // namespace cnnext
