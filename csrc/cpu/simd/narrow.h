// Small integers beside a vector of numbers: uint8_t or int32_t in memory, a Mask<C> (one integer per lane of
// Vec<C>) in registers. g++ 12 turns __builtin_convertvector from and to bytes into scalar code, hence the
// intrinsics.
#pragma once

#include "vec.h"

namespace cnnext::CNNEXT_ISA {

template <typename C, typename N>
CNNEXT_INLINE Mask<C> load_narrow(const N* p) {
  [[maybe_unused]] constexpr bool bytes = sizeof(N) == 1;
  if constexpr (sizeof(N) == sizeof(C)) {
    Mask<C> v;
    std::memcpy(&v, p, sizeof v);
    return v;
  } else {
#if defined(__AVX512F__)
    if constexpr (bytes && sizeof(C) == 4) {
      return reinterpret_cast<Mask<C>>(
          _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    } else if constexpr (bytes) {
      return reinterpret_cast<Mask<C>>(
          _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    } else {
      return reinterpret_cast<Mask<C>>(
          _mm512_cvtepi32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
    }
#elif defined(__AVX2__)
    if constexpr (bytes && sizeof(C) == 4) {
      return reinterpret_cast<Mask<C>>(
          _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    } else if constexpr (bytes) {
      int32_t four;
      std::memcpy(&four, p, sizeof four);
      return reinterpret_cast<Mask<C>>(_mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four)));
    } else {
      return reinterpret_cast<Mask<C>>(
          _mm256_cvtepi32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    }
#else
    Mask<C> v;
    for (int i = 0; i < kLanes<C>; ++i) v[i] = p[i];
    return v;
#endif
  }
}

template <typename C, typename N>
CNNEXT_INLINE void store_narrow(N* p, Mask<C> v) {
  [[maybe_unused]] constexpr bool bytes = sizeof(N) == 1;
  if constexpr (sizeof(N) == sizeof(C)) {
    std::memcpy(p, &v, sizeof v);
  } else {
#if defined(__AVX512F__)
    const __m512i raw = reinterpret_cast<__m512i>(v);
    if constexpr (bytes && sizeof(C) == 4) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(raw));
    } else if constexpr (bytes) {
      _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm512_cvtepi64_epi8(raw));
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi64_epi32(raw));
    }
    return;
#elif defined(__AVX2__)
    if constexpr (bytes && sizeof(C) == 4) {
      const __m256i raw = reinterpret_cast<__m256i>(v);
      const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(raw), _mm256_extracti128_si256(raw, 1));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
      return;
    }
#endif
    for (int i = 0; i < kLanes<C>; ++i) p[i] = static_cast<N>(v[i]);
  }
}

// The first n lanes, 0 < n; all of them when n ≥ kLanes. Lanes not loaded are zero.
template <typename C, typename N>
CNNEXT_INLINE Mask<C> load_narrow_first(const N* p, int64_t n) {
  if (n >= kLanes<C>) return load_narrow<C>(p);
  Mask<C> v{};
  for (int64_t i = 0; i < n; ++i) v[i] = p[i];
  return v;
}

template <typename C, typename N>
CNNEXT_INLINE void store_narrow_first(N* p, Mask<C> v, int64_t n) {
  if (n >= kLanes<C>) return store_narrow<C>(p, v);
  for (int64_t i = 0; i < n; ++i) p[i] = static_cast<N>(v[i]);
}

}  // namespace cnnext::CNNEXT_ISA
