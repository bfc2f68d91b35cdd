// NHWC pooling: how the channels of a pixel are dealt out to vectors.
#pragma once

#include "simd/vec.h"

namespace cnnext::CNNEXT_ISA {

// The channels of a pixel in blocks of four vectors, then of one; what the last one overwrites beyond them is
// the next pixel's, which comes later. run(tag, c) with tag.count vectors from channel c on.
template <int kVectors>
struct VectorCount {
  static constexpr int count = kVectors;
};
template <typename C, typename Run>
CNNEXT_INLINE void for_channels(int64_t channels, const Run& run) {
  int64_t c = 0;
  for (; c + 4 * kLanes<C> <= channels; c += 4 * kLanes<C>) run(VectorCount<4>{}, c);
  for (; c < channels; c += kLanes<C>) run(VectorCount<1>{}, c);
}

}  // namespace cnnext::CNNEXT_ISA
