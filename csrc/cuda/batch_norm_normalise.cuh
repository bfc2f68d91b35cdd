// What batch norm and the ReLU behind it make of one value. The norm's own passes, the gate of the gradient
// and the convolutions that normalise what they load share it: the mask of the ReLU is found again to the
// same bits.
#pragma once

#include "device/convert.cuh"

namespace cnnext {

template <class C>
CNNEXT_DEVICE C normalised(C x, C center, C scale, C offset) {
  return (x - center) * scale + offset;
}

// NaN stays, as in torch.
template <class C>
CNNEXT_DEVICE C rectified(C value) {
  return value <= C{0} ? C{0} : value;
}

}  // namespace cnnext
