// The register tile of every GEMM on the CPU: kRows × (2 vectors) sums, one broadcast and two FMAs per row
// and step.
//
// kRows is as large as the vector registers allow (32 of them with AVX-512, 16 before): the loads of a step,
// kRows broadcasts and two vectors, then stay below two per cycle while both FMA units are busy.
#pragma once

#include "vec.h"

namespace cnnext::CNNEXT_ISA {

#if defined(__AVX512F__)
inline constexpr int kGemmRows = 14;
#else
inline constexpr int kGemmRows = 6;
#endif
inline constexpr int kGemmDepth = 16;  // steps whose A values of one row lie side by side

// With `accumulate` the sums of this call are added to c once they are complete: they do not lengthen its
// chain. c[kRows][ldc] (+)= Σ_k a[k / 16][kGemmRows][k % 16] · b[k][kVectors vectors], k in [0, depth).
template <typename C, int kRows, int kVectors>
__attribute__((noinline)) void gemm_microkernel(const C* a, const C* b, C* c, int64_t ldc, int64_t depth,
                                                bool accumulate) {
  constexpr int kL = kLanes<C>;
  Vec<C> sum[kRows][kVectors];
#pragma GCC unroll 14
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sum[i][v] = Vec<C>{};
  }
  for (; depth > 0; depth -= kGemmDepth, a += kGemmRows * kGemmDepth) {
    const int steps = depth < kGemmDepth ? static_cast<int>(depth) : kGemmDepth;
#pragma GCC unroll 4
    for (int k = 0; k < steps; ++k, b += kVectors * kL) {
      Vec<C> column[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) column[v] = load(b + v * kL);
#pragma GCC unroll 14
      for (int i = 0; i < kRows; ++i) {
        const Vec<C> row = broadcast(a[i * kGemmDepth + k]);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sum[i][v] = row * column[v] + sum[i][v];
      }
    }
  }
#pragma GCC unroll 14
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      C* at = c + i * ldc + v * kL;
      store(at, accumulate ? load(at) + sum[i][v] : sum[i][v]);
    }
  }
}

// The smallest compiled tile that holds `rows` ≤ kGemmRows rows; rows past `rows` are computed and not looked
// at.
template <typename C, int kVectors>
CNNEXT_INLINE void gemm_rows(int64_t rows, const C* a, const C* b, C* c, int64_t ldc, int64_t depth,
                             bool accumulate) {
#if defined(__AVX512F__)
  if (rows > 12) return gemm_microkernel<C, 14, kVectors>(a, b, c, ldc, depth, accumulate);
  if (rows > 8) return gemm_microkernel<C, 12, kVectors>(a, b, c, ldc, depth, accumulate);
  if (rows > 4) return gemm_microkernel<C, 8, kVectors>(a, b, c, ldc, depth, accumulate);
#else
  if (rows > 4) return gemm_microkernel<C, 6, kVectors>(a, b, c, ldc, depth, accumulate);
#endif
  return gemm_microkernel<C, 4, kVectors>(a, b, c, ldc, depth, accumulate);
}

}  // namespace cnnext::CNNEXT_ISA
