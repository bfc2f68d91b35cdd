// The sums of a weight gradient are long: one term for each pixel of the batch.
#pragma once

#include "device/platform.cuh"

namespace cnnext {

// A sum that carries what its rounding lost. (Neumaier, "Rundungsfehleranalyse einiger Verfahren zur
// Summation endlicher Summen", ZAMM 1974; here by two-sum, without the comparison)
template <class C>
struct CarriedSum {
  C sum = 0, lost = 0;

  CNNEXT_DEVICE void add(C value) {
    const C total = sum + value, added = total - sum;
    lost += (sum - (total - added)) + (value - added);
    sum = total;
  }
  CNNEXT_DEVICE C total() const {
    const C total = sum + lost;
    return total - total == C(0) ? total : sum;  // an infinite sum has no loss, but a NaN in its place
  }
};

}  // namespace cnnext
