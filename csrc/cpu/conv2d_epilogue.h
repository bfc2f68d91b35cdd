// What is done with the output of a convolution while it is in the cache: nothing, its statistics, or the
// residual and the ReLU.
#pragma once

#include "batch_norm_kernel.h"
#include "conv2d_prologue.h"

namespace cnnext {

// Called by the algorithms for every part of the output as soon as it is written. A part is some pixels, in
// the order [n, p, q], of some channels; what is counted as one part follows from the sizes alone.
class Conv2dEpilogue {
 public:
  virtual ~Conv2dEpilogue() = default;
  // Before the first part: part numbers are below `parts`.
  virtual void expect(int64_t parts) = 0;
  // By any thread. The same part comes once for each range of channels that is written on its own.
  virtual void finish(int64_t part, const BatchNormBlock& block) = 0;
};

// What a convolution does besides.
template <typename C>
struct Conv2dFusion {
  Conv2dPrologue<C> prologue = {};
  Conv2dEpilogue* epilogue = nullptr;
};

}  // namespace cnnext
