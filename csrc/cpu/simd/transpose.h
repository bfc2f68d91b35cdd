// Shuffles across two vectors, and the transposition of a square of vectors that is made of them.
#pragma once

#include "vec.h"

namespace cnnext::CNNEXT_ISA {

// Lane i of the result is lane From::at(i) of the 2·kLanes values a₀ a₁ … b₀ b₁ …. The indices are written
// out because only then do the compilers see a constant shuffle, which is one instruction, and not a table
// lookup.
#if defined(__clang__) || __GNUC__ >= 12
#define CNNEXT_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define CNNEXT_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Mask<C>{__VA_ARGS__})
#endif

template <typename C, typename From, typename V = Vec<C>>
CNNEXT_INLINE V shuffle(V a, V b, From) {
  if constexpr (kLanes<C> == 16) {
    return CNNEXT_SHUFFLE(a, b, From::at(0), From::at(1), From::at(2), From::at(3), From::at(4), From::at(5),
                          From::at(6), From::at(7), From::at(8), From::at(9), From::at(10), From::at(11),
                          From::at(12), From::at(13), From::at(14), From::at(15));
  } else if constexpr (kLanes<C> == 8) {
    return CNNEXT_SHUFFLE(a, b, From::at(0), From::at(1), From::at(2), From::at(3), From::at(4), From::at(5),
                          From::at(6), From::at(7));
  } else if constexpr (kLanes<C> == 4) {
    return CNNEXT_SHUFFLE(a, b, From::at(0), From::at(1), From::at(2), From::at(3));
  } else {
    return CNNEXT_SHUFFLE(a, b, From::at(0), From::at(1));
  }
}

template <int kCount>
struct ZipLow {
  static constexpr int at(int i) { return i / 2 + i % 2 * kCount; }
};
template <int kCount>
struct ZipHigh {
  static constexpr int at(int i) { return (kCount + i) / 2 + i % 2 * kCount; }
};
template <int kFirst>
struct EverySecond {
  static constexpr int at(int i) { return 2 * i + kFirst; }
};

// a₀ b₀ a₁ b₁ …, from the lower and from the upper halves of a and b.
template <typename C>
CNNEXT_INLINE Vec<C> zip_low(Vec<C> a, Vec<C> b) {
  return shuffle<C>(a, b, ZipLow<kLanes<C>>{});
}

template <typename C>
CNNEXT_INLINE Vec<C> zip_high(Vec<C> a, Vec<C> b) {
  return shuffle<C>(a, b, ZipHigh<kLanes<C>>{});
}

// Every second lane of a, then of b: the inverse of the two zips.
template <typename C>
CNNEXT_INLINE Vec<C> even_lanes(Vec<C> a, Vec<C> b) {
  return shuffle<C>(a, b, EverySecond<0>{});
}

template <typename C>
CNNEXT_INLINE Vec<C> odd_lanes(Vec<C> a, Vec<C> b) {
  return shuffle<C>(a, b, EverySecond<1>{});
}

// rows[i] lane j <-> rows[j] lane i. Zipping vector i with vector i + kLanes / 2 rotates the address bits
// (row, lane) by one place; after log2(kLanes) rounds row and lane have changed places.
template <typename C>
CNNEXT_INLINE void transpose(Vec<C> (&rows)[kLanes<C>]) {
  constexpr int kHalf = kLanes<C> / 2;
#pragma GCC unroll 4
  for (int round = 1; round < kLanes<C>; round *= 2) {
    Vec<C> zipped[kLanes<C>];
#pragma GCC unroll 8
    for (int i = 0; i < kHalf; ++i) {
      zipped[2 * i] = zip_low<C>(rows[i], rows[i + kHalf]);
      zipped[2 * i + 1] = zip_high<C>(rows[i], rows[i + kHalf]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<C>; ++i) rows[i] = zipped[i];
  }
}

}  // namespace cnnext::CNNEXT_ISA
