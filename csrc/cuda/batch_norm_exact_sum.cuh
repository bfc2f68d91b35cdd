// The sums of batch_norm's statistics and gradients, which lose nothing to rounding.
#pragma once

#include "device/platform.cuh"

namespace cnnext {

// A sum that keeps what rounding takes from it: float needs it where a channel has many values, and double is
// slow on most devices. (Source: Knuth, The Art of Computer Programming, volume 2, section 4.2.2, theorem B)
template <class C>
struct ExactSum {
  C value, lost;

  CNNEXT_DEVICE void add(C term) {
    const C sum = value + term, of_term = sum - value;
    const C error = (value - (sum - of_term)) + (term - of_term);
    value = sum;
    if (error == error) lost += error;  // ∞ − ∞: an infinite sum has lost nothing
  }

  CNNEXT_DEVICE void add(const ExactSum& other) {
    add(other.value);
    lost += other.lost;
  }

  // Adds grad · (x − center) with what rounds off on the way. (Source: Ogita, Rump and Oishi, "Accurate sum
  // and dot product", 2005, algorithm 5.3)
  CNNEXT_DEVICE void add_product(float grad, float x, float center) {
    const float distance = x - center, of_center = distance - x;
    const float distance_lost = (x - (distance - of_center)) - (center + of_center);
    const float product = __fmul_rn(grad, distance), product_lost = __fmaf_rn(grad, distance, -product);
    add(product);
    const float error = product_lost + grad * distance_lost;
    if (error == error) lost += error;
  }

  CNNEXT_DEVICE double total() const { return static_cast<double>(value) + static_cast<double>(lost); }
};

}  // namespace cnnext
