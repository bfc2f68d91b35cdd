// One vector API for every instruction set, over the compiler's vector extension (g++ and clang++).
//
// Vec<float> and Vec<double> hold kLanes<T> values and take + - * / and comparisons as operators; a * b + c
// becomes one FMA where there is one (-ffp-contract=fast). 16-bit storage is converted on load and store.
// Two traps of g++ 12: write a broadcast as `a - Vec{}` (that is what `broadcast` does; `Vec{} + a` costs an
// addition), and unroll loops over accumulator arrays fully, or the accumulators live in memory.
#pragma once

#include <cstdint>
#include <cstring>

#include "../../common/math.h"
#include "isa.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define CNNEXT_INLINE inline __attribute__((always_inline))

namespace cnnext::CNNEXT_ISA {

inline constexpr int kVectorBytes = CNNEXT_VECTOR_BYTES;

template <typename T>
inline constexpr int kLanes = kVectorBytes / sizeof(T);

template <typename T>
struct VecOf;
template <>
struct VecOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef int32_t mask __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VecOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef int64_t mask __attribute__((vector_size(kVectorBytes)));
};

template <typename T>
using Vec = typename VecOf<T>::type;
// Lanes are −1 where a comparison held and 0 elsewhere.
template <typename T>
using Mask = typename VecOf<T>::mask;

template <typename T>
CNNEXT_INLINE Vec<T> broadcast(T value) {
  return value - Vec<T>{};
}

// Holds v in a register from here on: the compiler may else read it from memory again at each use.
template <typename V>
CNNEXT_INLINE void in_register(V& v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
}

// i, unknown to the compiler, which may else find it clever to derive many addresses from its parts.
template <typename I>
CNNEXT_INLINE I opaque(I i) {
  asm("" : "+r"(i));
  return i;
}

template <typename T>
CNNEXT_INLINE Vec<T> select(Mask<T> mask, Vec<T> if_true, Vec<T> if_false) {
  return mask ? if_true : if_false;
}

template <typename T, typename V = Vec<T>>
CNNEXT_INLINE T horizontal_sum(V v) {
  T total = 0;
  for (int i = 0; i < kLanes<T>; ++i) total += v[i];
  return total;
}

// The lanes 0 … n − 1.
template <typename T>
CNNEXT_INLINE Mask<T> first_lanes(int64_t n) {
  Mask<T> lane;
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
  const auto limit = static_cast<decltype(lane[0] + 0)>(n < kLanes<T> ? n : kLanes<T>);
  return lane < limit - Mask<T>{};
}

// ---- scalars of 16 bits
// -------------------------------------------------------------------------------------

CNNEXT_INLINE float to_compute(float x) { return x; }
CNNEXT_INLINE double to_compute(double x) { return x; }

CNNEXT_INLINE float to_compute(bfloat16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

CNNEXT_INLINE float to_compute(half_t x) {
#if defined(__AVX2__)
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(x.bits)));
#else
  // Shift exponent and mantissa into place and rescale by 2^112, the difference of the two biases.
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fff) << 13;
  const uint32_t bits = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : magnitude;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  if (magnitude < 0x0f800000u) value *= 0x1p112f;
  return x.bits & 0x8000 ? -value : value;
#endif
}

template <typename T>
CNNEXT_INLINE T from_compute(compute_t<T> x) {
  return x;
}

template <>
CNNEXT_INLINE bfloat16_t from_compute<bfloat16_t>(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) return {static_cast<uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};  // to nearest, ties to even
}

template <>
CNNEXT_INLINE half_t from_compute<half_t>(float x) {
#if defined(__AVX2__)
  return {static_cast<uint16_t>(_mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT)))};
#else
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00)};
  if (bits >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00)};  // 65520 and more round to infinity
  if (bits < 0x38800000u) {
    // Subnormal: adding 0.5 lets the FPU round at 2^-24, the last bit that float16 has there.
    float magnitude;
    std::memcpy(&magnitude, &bits, sizeof magnitude);
    magnitude += 0.5f;
    std::memcpy(&bits, &magnitude, sizeof bits);
    return {static_cast<uint16_t>(sign | (bits - 0x3f000000u))};
  }
  bits += 0xfffu + ((bits >> 13) & 1);
  return {static_cast<uint16_t>(sign | ((bits - 0x38000000u) >> 13))};
#endif
}

// ---- loads and stores
// ---------------------------------------------------------------------------------------

// Storage of type S is loaded as a Vec of its compute type; no alignment is asked for.
template <typename S>
CNNEXT_INLINE Vec<compute_t<S>> load(const S* p) {
  if constexpr (sizeof(S) >= 4) {
    Vec<S> v;
    std::memcpy(&v, p, sizeof v);
    return v;
  } else {
    using V = Vec<float>;
    V v;
#if defined(__AVX512F__)
    const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    if constexpr (__is_same(S, half_t)) {
      v = reinterpret_cast<V>(_mm512_cvtph_ps(raw));
    } else {
      v = reinterpret_cast<V>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
    }
#elif defined(__AVX2__)
    const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    if constexpr (__is_same(S, half_t)) {
      v = reinterpret_cast<V>(_mm256_cvtph_ps(raw));
    } else {
      v = reinterpret_cast<V>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16));
    }
#else
    for (int i = 0; i < kLanes<float>; ++i) v[i] = to_compute(p[i]);
#endif
    return v;
  }
}

template <typename S>
CNNEXT_INLINE void store(S* p, Vec<compute_t<S>> v) {
  if constexpr (sizeof(S) >= 4) {
    std::memcpy(p, &v, sizeof v);
  } else {
#if defined(__AVX512F__)
    if constexpr (__is_same(S, half_t)) {
      const __m256i raw = _mm512_cvtps_ph(reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), raw);
      return;
    }
#elif defined(__AVX2__)
    if constexpr (__is_same(S, half_t)) {
      const __m128i raw = _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), raw);
      return;
    }
#endif
    for (int i = 0; i < kLanes<float>; ++i) p[i] = from_compute<S>(v[i]);
  }
}

// The first n lanes, 0 ≤ n; all of them when n ≥ kLanes. The other lanes are zero and their memory is not
// touched.
template <typename S>
CNNEXT_INLINE Vec<compute_t<S>> load_first(const S* p, int64_t n) {
  if (n >= kLanes<compute_t<S>>) return load(p);
#if defined(__AVX512F__)
  if constexpr (__is_same(S, float)) {
    return reinterpret_cast<Vec<float>>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p));
  } else if constexpr (__is_same(S, double)) {
    return reinterpret_cast<Vec<double>>(_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1), p));
  } else
#elif defined(__AVX2__)
  if constexpr (__is_same(S, float)) {
    return reinterpret_cast<Vec<float>>(
        _mm256_maskload_ps(p, reinterpret_cast<__m256i>(first_lanes<float>(n))));
  } else if constexpr (__is_same(S, double)) {
    return reinterpret_cast<Vec<double>>(
        _mm256_maskload_pd(p, reinterpret_cast<__m256i>(first_lanes<double>(n))));
  } else
#endif
  {
    Vec<compute_t<S>> v{};
    for (int64_t i = 0; i < n; ++i) v[i] = to_compute(p[i]);
    return v;
  }
}

template <typename S>
CNNEXT_INLINE void store_first(S* p, Vec<compute_t<S>> v, int64_t n) {
  if (n >= kLanes<compute_t<S>>) return store(p, v);
#if defined(__AVX512F__)
  if constexpr (__is_same(S, float)) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), reinterpret_cast<__m512>(v));
    return;
  } else if constexpr (__is_same(S, double)) {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1), reinterpret_cast<__m512d>(v));
    return;
  }
#elif defined(__AVX2__)
  if constexpr (__is_same(S, float)) {
    _mm256_maskstore_ps(p, reinterpret_cast<__m256i>(first_lanes<float>(n)), reinterpret_cast<__m256>(v));
    return;
  } else if constexpr (__is_same(S, double)) {
    _mm256_maskstore_pd(p, reinterpret_cast<__m256i>(first_lanes<double>(n)), reinterpret_cast<__m256d>(v));
    return;
  }
#endif
  for (int64_t i = 0; i < n; ++i) p[i] = from_compute<S>(v[i]);
}

// A sum that carries along what each addition rounds off (Kahan and Babuška).
template <typename C>
struct CarriedSum {
  Vec<C> total, lost{};

  CNNEXT_INLINE void add(Vec<C> value) {
    const Vec<C> sum = total + value, moved = sum - total;
    lost += (total - (sum - moved)) + (value - moved);
    total = sum;
  }

  // Where the sum is infinite, what was lost is NaN.
  CNNEXT_INLINE Vec<C> value() const { return select<C>(lost == lost, total + lost, total); }
};

}  // namespace cnnext::CNNEXT_ISA
