// How the batch_norm kernels walk through memory, in both directions and both layouts.
#pragma once

#include "batch_norm_kernel.h"
#include "simd/vec.h"

namespace cnnext::CNNEXT_ISA {

// Independent sums that a reduction keeps in registers: enough to hide the latency of an addition.
inline constexpr int kAccumulators = 4;

// channels_last: the channels of a strip are summed together, row after row, in kAccumulators vectors.
template <typename C>
inline constexpr int64_t kStripWidth = kAccumulators * kLanes<C>;

// Additions into one accumulator of compute precision before it is emptied into a double.
inline constexpr int64_t kAdditions = 64;

// NCHW: the contiguous pieces, of at most `longest` values, of the values [begin, end) of channel c.
class ChannelRuns {
 public:
  ChannelRuns(const BatchNormShape& shape, int64_t c, int64_t begin, int64_t end, int64_t longest)
      : hw_(shape.hw),
        image_stride_((shape.c - 1) * shape.hw),
        longest_(longest),
        position_(begin),
        end_(end),
        image_end_(begin / shape.hw * shape.hw),
        shift_(begin / shape.hw * image_stride_ - image_stride_ + c * shape.hw) {}

  // Moves on to the next run, [offset, offset + length) of the tensor; false when there is none.
  bool next() {
    if (position_ >= end_) return false;
    if (position_ >= image_end_) {
      image_end_ += hw_;
      shift_ += image_stride_;
    }
    offset = position_ + shift_;
    length = smaller(smaller(image_end_, end_) - position_, longest_);
    position_ += length;
    return true;
  }

  int64_t offset = 0, length = 0;

 private:
  int64_t hw_, image_stride_, longest_;
  int64_t position_, end_, image_end_, shift_;
};

// step(i, n) for the vectors of [begin, end): n is the constant kLanes except for a shorter last one, so that
// load_first and store_first become plain loads and stores.
template <typename C, typename Step>
CNNEXT_INLINE void for_each_vector(int64_t begin, int64_t end, const Step& step) {
  int64_t i = begin;
  for (; i + kLanes<C> <= end; i += kLanes<C>) step(i, kLanes<C>);
  if (i < end) step(i, end - i);
}

// Σ over the lanes of kAccumulators vectors, in double.
template <typename C, typename V = Vec<C>>
CNNEXT_INLINE double total(const V* sums) {
  const V sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double lanes[kLanes<C>];
  for (int i = 0; i < kLanes<C>; ++i) lanes[i] = static_cast<double>(sum[i]);
  for (int width = kLanes<C> / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

}  // namespace cnnext::CNNEXT_ISA
