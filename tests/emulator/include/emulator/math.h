// CUDA's math built-ins that a host compiler lacks.
#pragma once

#include <emulator/qualifiers.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

using std::max;
using std::min;

__forceinline__ float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
__forceinline__ double rsqrt(double x) { return 1.0 / std::sqrt(x); }
__forceinline__ float __expf(float x) { return std::exp(x); }
__forceinline__ float __fdividef(float x, float y) { return x / y; }
__forceinline__ float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
__forceinline__ double __fma_rn(double x, double y, double z) { return std::fma(x, y, z); }
__forceinline__ float __frcp_rn(float x) { return 1.0f / x; }
__forceinline__ float __fadd_rn(float x, float y) { return x + y; }
__forceinline__ float __fmul_rn(float x, float y) { return x * y; }

__forceinline__ unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
__forceinline__ float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
__forceinline__ int __float_as_int(float x) { return static_cast<int>(__float_as_uint(x)); }
__forceinline__ float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }

__forceinline__ int __popc(unsigned x) { return __builtin_popcount(x); }
__forceinline__ int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
__forceinline__ int __ffs(int x) { return __builtin_ffs(x); }
__forceinline__ unsigned __umulhi(unsigned x, unsigned y) {
  return static_cast<unsigned>((static_cast<uint64_t>(x) * y) >> 32);
}
__forceinline__ int __mulhi(int x, int y) { return static_cast<int>((static_cast<int64_t>(x) * y) >> 32); }
