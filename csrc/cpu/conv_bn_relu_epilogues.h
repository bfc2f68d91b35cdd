// What the fused convolutions do with a part of their output while it is in the cache.
#pragma once

#include <vector>

#include "batch_norm_tensors.h"
#include "conv2d_epilogue.h"

namespace cnnext {

// The output of a convolution as the kernels of batch_norm see it, with channels for its columns.
inline BatchNormShape epilogue_shape(const Tensor& output, bool channels_last) {
  const int64_t plane = output.size(2) * output.size(3);
  return {output.size(0), output.size(1), plane, channels_last || plane == 1, 1};
}

// Mean and variance of every channel. The moments of a part go to a place of their own and are merged in the
// order of the parts: threads make no difference.
template <typename T>
class StatisticsEpilogue final : public Conv2dEpilogue {
  using C = compute_t<T>;

 public:
  StatisticsEpilogue(const Tensor& output, bool channels_last)
      : output_(output), shape_(epilogue_shape(output, channels_last)) {}

  void expect(int64_t parts) override {
    counts_.resize(static_cast<size_t>(parts));
    partial_ = empty(output_, {parts, 2, shape_.c}, ScalarType::Double);
  }

  void finish(int64_t part, const BatchNormBlock& block) override {
    double* const sums = mutable_data<double>(partial_) + part * 2 * shape_.c;
    batch_norm_kernels<T>().moments(shape_, block, data<T>(output_), sums);
    if (block.c_begin == 0) counts_[static_cast<size_t>(part)] = block.end - block.begin;
  }

  void write(const Tensor& mean, const Tensor& var) {
    if (counts_.empty() || shape_.values() == 0) {
      Tensor zeroed[] = {mean, var};
      for (Tensor& tensor : zeroed) torch::stable::zero_(tensor);
      return;
    }
    const auto parts = static_cast<int64_t>(counts_.size());
    constexpr int64_t kTogether = 16, kMergeOperations = 8;  // channels of a cache line and more
    parallel_for(ceil_div(shape_.c, kTogether), kMergeOperations * kTogether * parts,
                 [&](int64_t begin, int64_t end) {
                   batch_norm_kernels<T>().merge_moments(
                       shape_, parts, counts_.data(), begin * kTogether, smaller(end * kTogether, shape_.c),
                       mutable_data<double>(partial_), mutable_data<C>(mean), mutable_data<C>(var));
                 });
  }

 private:
  Tensor output_, partial_;
  BatchNormShape shape_;
  std::vector<int64_t> counts_;
};

// relu(output + residual), in place; the residual is dense in the output's layout.
template <typename T>
class ResidualReluEpilogue final : public Conv2dEpilogue {
 public:
  ResidualReluEpilogue(const Tensor& output, bool channels_last, const std::optional<Tensor>& residual,
                       bool relu)
      : output_(output), shape_(epilogue_shape(output, channels_last)), residual_(residual), relu_(relu) {}

  void expect(int64_t) override {}

  void finish(int64_t, const BatchNormBlock& block) override {
    batch_norm_kernels<T>().finish(shape_, block, data<T>(residual_), relu_, mutable_data<T>(output_));
  }

 private:
  Tensor output_;
  BatchNormShape shape_;
  const std::optional<Tensor>& residual_;
  bool relu_;
};

}  // namespace cnnext
