// The prologue of a convolution: relu(batch_norm(x)) is what it reads, made of x while x is packed. The
// activation between two layers is never written, and no padding is normalised.
#pragma once

#include <cstdint>

namespace cnnext {

// relu((x − center)·scale + offset), one value for each channel of x; x as it is where center is null.
template <typename C>
struct Conv2dPrologue {
  const C *center = nullptr, *scale = nullptr, *offset = nullptr;

  // The same for a source that begins at channel c.
  Conv2dPrologue from(int64_t c) const {
    return center ? Conv2dPrologue{center + c, scale + c, offset + c} : *this;
  }
};

}  // namespace cnnext
