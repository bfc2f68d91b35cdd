// What batch norm and the ReLU behind it make of a vector. Forward, backward and the convolutions' prologue
// share it: the mask of the ReLU is not saved but computed again, to the same bits.
#pragma once

#include "conv2d_prologue.h"
#include "simd/vec.h"

namespace cnnext::CNNEXT_ISA {

template <typename C>
CNNEXT_INLINE Vec<C> normalised(Vec<C> x, Vec<C> center, Vec<C> scale, Vec<C> offset) {
  return (x - center) * scale + offset;
}

// NaN stays, as in torch.
template <typename C>
CNNEXT_INLINE Vec<C> rectified(Vec<C> v) {
  return select<C>(v <= Vec<C>{}, Vec<C>{}, v);
}

// The gradient that a ReLU of `value` lets through.
template <typename C>
CNNEXT_INLINE Vec<C> let_through(Vec<C> grad, Vec<C> value) {
  return select<C>(value <= Vec<C>{}, Vec<C>{}, grad);
}

// ---- what a convolution makes of its source while it packs it ----

struct Unchanged {
  template <typename V>
  CNNEXT_INLINE V operator()(V x) const {
    return x;
  }
};

template <typename C>
struct Activated {
  Vec<C> center, scale, offset;
  CNNEXT_INLINE Vec<C> operator()(Vec<C> x) const {
    return rectified<C>(normalised<C>(x, center, scale, offset));
  }
};

// The first n lanes of map(x), n ≥ 0; the others are zero.
template <typename C>
CNNEXT_INLINE Vec<C> map_first(Vec<C> x, int64_t, const Unchanged&) {
  return x;
}
template <typename C>
CNNEXT_INLINE Vec<C> map_first(Vec<C> x, int64_t n, const Activated<C>& map) {
  return n >= kLanes<C> ? map(x) : select<C>(first_lanes<C>(n), map(x), Vec<C>{});
}

// The map for a vector of values of channel c, or of n channels from c on.
template <typename C>
struct SourceAsItIs {
  CNNEXT_INLINE Unchanged of_channel(int64_t) const { return {}; }
  CNNEXT_INLINE Unchanged of_channels(int64_t, int64_t) const { return {}; }
};
template <typename C>
struct SourceActivated {
  Conv2dPrologue<C> prologue;
  CNNEXT_INLINE Activated<C> of_channel(int64_t c) const {
    return {broadcast(prologue.center[c]), broadcast(prologue.scale[c]), broadcast(prologue.offset[c])};
  }
  CNNEXT_INLINE Activated<C> of_channels(int64_t c, int64_t n) const {
    return {load_first(prologue.center + c, n), load_first(prologue.scale + c, n),
            load_first(prologue.offset + c, n)};
  }
};

// run(SourceAsItIs or SourceActivated)
template <typename C, typename Run>
CNNEXT_INLINE void with_prologue(const Conv2dPrologue<C>& prologue, const Run& run) {
  if (prologue.center) {
    run(SourceActivated<C>{prologue});
  } else {
    run(SourceAsItIs<C>{});
  }
}

}  // namespace cnnext::CNNEXT_ISA
