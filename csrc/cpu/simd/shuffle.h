// Lanes across vectors: sorting them by parity and back, and summing them. For strided rows.
#pragma once

#include <utility>

#include "vec.h"

namespace cnnext::CNNEXT_ISA {

// Each rule says which lane of the pair (a, b) goes to lane i of the result.
template <int lanes>
struct EvenLanes {
  static constexpr int at(int i) { return 2 * i; }
};
template <int lanes>
struct OddLanes {
  static constexpr int at(int i) { return 2 * i + 1; }
};
template <int lanes>
struct InterleaveLow {
  static constexpr int at(int i) { return i / 2 + i % 2 * lanes; }
};
template <int lanes>
struct InterleaveHigh {
  static constexpr int at(int i) { return i / 2 + i % 2 * lanes + lanes / 2; }
};
template <int lanes>
struct UpperHalf {
  static constexpr int at(int i) { return i + lanes / 2; }
};

template <typename T, typename Rule, int... I>
CNNEXT_INLINE Vec<T> shuffle_lanes(Vec<T> a, Vec<T> b, std::integer_sequence<int, I...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, Rule::at(I)...);
#else
  return __builtin_shuffle(a, b, Mask<T>{Rule::at(I)...});
#endif
}

template <typename T, template <int> typename Rule>
CNNEXT_INLINE Vec<T> shuffle(Vec<T> a, Vec<T> b) {
  return shuffle_lanes<T, Rule<kLanes<T>>>(a, b, std::make_integer_sequence<int, kLanes<T>>{});
}

// Lane i is the sum over the lanes of v[i]; v is overwritten. Adding neighbours of two vectors into one
// halves their number and keeps the order: log2(kLanes) rounds leave one vector, at about two shuffles for
// each of v.
template <typename T>
CNNEXT_INLINE Vec<T> tree_sums(Vec<T> (&v)[kLanes<T>]) {
  for (int count = kLanes<T>; count > 1; count /= 2) {
    for (int i = 0; i < count / 2; ++i) {
      v[i] = shuffle<T, EvenLanes>(v[2 * i], v[2 * i + 1]) + shuffle<T, OddLanes>(v[2 * i], v[2 * i + 1]);
    }
  }
  return v[0];
}

// The sum over the lanes of one vector, in the same order as in tree_sums.
template <typename T>
CNNEXT_INLINE T tree_sum(Vec<T> v) {
  for (int lanes = kLanes<T>; lanes > 1; lanes /= 2)
    v = shuffle<T, EvenLanes>(v, v) + shuffle<T, OddLanes>(v, v);
  return v[0];
}

template <typename T>
CNNEXT_INLINE bool has_nan(Vec<T> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(v), reinterpret_cast<__m512>(v), _CMP_UNORD_Q);
  } else {
    return _mm512_cmp_pd_mask(reinterpret_cast<__m512d>(v), reinterpret_cast<__m512d>(v), _CMP_UNORD_Q);
  }
#else
  const Mask<T> is_nan = v != v;
  auto any = is_nan[0];
  for (int i = 1; i < kLanes<T>; ++i) any |= is_nan[i];
  return any;
#endif
}

// As load_first, for any n: nothing is read where n ≤ 0.
template <typename S>
CNNEXT_INLINE Vec<compute_t<S>> load_up_to(const S* p, int64_t n) {
  return n > 0 ? load_first(p, n) : Vec<compute_t<S>>{};
}

}  // namespace cnnext::CNNEXT_ISA
