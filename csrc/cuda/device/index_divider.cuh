// Division of indices, for kernels that find their place in a tensor by quotients and remainders.
#pragma once

#include "../../common/math.h"
#include "platform.cuh"

namespace cnnext::device {

// Division by a number known at the launch, without dividing: n / d = (hi(n · multiplier) + n) >> shift.
// (Source: Granlund and Montgomery, "Division by Invariant Integers using Multiplication", 1994, figure 4.1)
class IndexDivider {
 public:
  IndexDivider() = default;

  explicit IndexDivider(int64_t divisor) : divisor_(divisor) {
    if (divisor >= kFast) {  // 0 for every dividend that takes the short way
      multiplier_ = 0, shift_ = 31;
      return;
    }
    while ((int64_t{1} << shift_) < divisor) ++shift_;
    const uint64_t excess = (uint64_t{1} << shift_) - static_cast<uint64_t>(divisor);
    multiplier_ = static_cast<uint32_t>((excess << 32) / static_cast<uint64_t>(divisor) + 1);
  }

  // For 0 ≤ n < 2^31.
  CNNEXT_HOST_DEVICE int divide(int n) const {
    const uint32_t value = static_cast<uint32_t>(n);
    return static_cast<int>((static_cast<uint32_t>((uint64_t{value} * multiplier_) >> 32) + value) >> shift_);
  }

  // For any n ≥ 0; tensors of less than 2^31 elements never take the long way.
  CNNEXT_HOST_DEVICE int64_t divide(int64_t n) const {
    return n < kFast ? int64_t{divide(static_cast<int>(n))} : n / divisor_;
  }

  CNNEXT_HOST_DEVICE int64_t divisor() const { return divisor_; }

 private:
  static constexpr int64_t kFast = int64_t{1} << 31;

  int64_t divisor_ = 1;
  uint32_t multiplier_ = 1;
  int shift_ = 0;
};

}  // namespace cnnext::device
