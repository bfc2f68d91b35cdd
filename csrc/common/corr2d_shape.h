// The shape of a corr2d, for host and device, free of torch.
#pragma once

#include <cstdint>

namespace cnnext {

// x [h, w], kernel [r, s], y [p, q] with p = h − r + 1 and q = w − s + 1; all dense, row by row.
struct Corr2dShape {
  int64_t h, w, r, s, p, q;
};

}  // namespace cnnext
