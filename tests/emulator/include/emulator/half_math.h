// The __half and __nv_bfloat16 functions that CUDA's headers give to device code only. Fused operations are
// done in fp32 and rounded once: the product of two halves is exact there, so the result is the device's but
// for ties that fp32 has already rounded.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <emulator/qualifiers.h>

#include <cmath>

__forceinline__ __half __hfma(__half a, __half b, __half c) {
  return __float2half(std::fma(__half2float(a), __half2float(b), __half2float(c)));
}
__forceinline__ __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return __halves2half2(__hfma(__low2half(a), __low2half(b), __low2half(c)),
                        __hfma(__high2half(a), __high2half(b), __high2half(c)));
}
__forceinline__ __half hexp(__half x) { return __float2half(std::exp(__half2float(x))); }
__forceinline__ __half hsqrt(__half x) { return __float2half(std::sqrt(__half2float(x))); }
__forceinline__ __half hrsqrt(__half x) { return __float2half(1.0f / std::sqrt(__half2float(x))); }

__forceinline__ __nv_bfloat16 __hfma(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c) {
  return __float2bfloat16(std::fma(__bfloat162float(a), __bfloat162float(b), __bfloat162float(c)));
}
__forceinline__ __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) {
  return __halves2bfloat162(__hfma(__low2bfloat16(a), __low2bfloat16(b), __low2bfloat16(c)),
                            __hfma(__high2bfloat16(a), __high2bfloat16(b), __high2bfloat16(c)));
}
__forceinline__ __nv_bfloat16 hexp(__nv_bfloat16 x) {
  return __float2bfloat16(std::exp(__bfloat162float(x)));
}
__forceinline__ __nv_bfloat16 hsqrt(__nv_bfloat16 x) {
  return __float2bfloat16(std::sqrt(__bfloat162float(x)));
}
__forceinline__ __nv_bfloat16 hrsqrt(__nv_bfloat16 x) {
  return __float2bfloat16(1.0f / std::sqrt(__bfloat162float(x)));
}
