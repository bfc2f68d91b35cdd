// Tensor cores by mma.sync, and ldmatrix to feed them. All 32 lanes of the warp must call.
//
// Fragments, PTX ISA "Matrix fragments for mma.m16n8k16": with g = lane / 4 and t = lane % 4,
//   A[16][16] a[0] (g, 2t) a[1] (g+8, 2t) a[2] (g, 2t+8) a[3] (g+8, 2t+8), each register a pair of neighbours
//   in k B[16][8]  b[0] (2t, g) b[1] (2t+8, g), each register a pair of neighbours in k D[16][8]  d[0], d[1]
//   (g, 2t), (g, 2t+1)   d[2], d[3] (g+8, 2t), (g+8, 2t+1)
// tf32 m16n8k8: a register holds one value: A (g, t) (g+8, t) (g, t+4) (g+8, t+4), B (t, g) (t+4, g), D as
// above.
#pragma once

#include "platform.cuh"

namespace cnnext::device {

// d = a · b + c with fp32 accumulators; K = 8, fp16, the shape of sm_75. A takes a[0], a[1], B takes b[0].
CNNEXT_DEVICE void mma_m16n8k8_f16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0,
                                   const float (&c)[4]) {
#if defined(CNNEXT_EMULATED)
  const uint32_t a[2] = {a0, a1};
  emulator::mma(emulator::Mma::kF16K8, d, a, &b0, c, emulator::Site::here());
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a0), "r"(a1), "r"(b0), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
#endif
}

// d = a · b + c, K = 16. T is __half, done in two steps of 8 on sm_75, or __nv_bfloat16, which needs sm_80.
template <class T>
CNNEXT_DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                const float (&c)[4]);

template <>
CNNEXT_DEVICE void mma_m16n8k16<__half>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                        const float (&c)[4]) {
#if CNNEXT_ARCH < 800
  mma_m16n8k8_f16(d, a[0], a[1], b[0], c);
  mma_m16n8k8_f16(d, a[2], a[3], b[1], d);
#elif defined(CNNEXT_EMULATED)
  emulator::mma(emulator::Mma::kF16K16, d, a, b, c, emulator::Site::here());
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%10,%11,%12,%13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
        "f"(c[3]));
#endif
}

template <>
CNNEXT_DEVICE void mma_m16n8k16<__nv_bfloat16>([[maybe_unused]] float (&d)[4],
                                               [[maybe_unused]] const uint32_t (&a)[4],
                                               [[maybe_unused]] const uint32_t (&b)[2],
                                               [[maybe_unused]] const float (&c)[4]) {
#if CNNEXT_ARCH < 800
  __trap();  // compiled for sm_75 because a template is compiled for every architecture; no launcher chooses
             // it there
#elif defined(CNNEXT_EMULATED)
  emulator::mma(emulator::Mma::kBf16K16, d, a, b, c, emulator::Site::here());
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%10,%11,%12,%13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
        "f"(c[3]));
#endif
}

// d = a · b + c, K = 8, operands made by to_tf32; needs sm_80.
CNNEXT_DEVICE void mma_m16n8k8_tf32([[maybe_unused]] float (&d)[4], [[maybe_unused]] const uint32_t (&a)[4],
                                    [[maybe_unused]] const uint32_t (&b)[2],
                                    [[maybe_unused]] const float (&c)[4]) {
#if CNNEXT_ARCH < 800
  __trap();
#elif defined(CNNEXT_EMULATED)
  emulator::mma(emulator::Mma::kTf32K8, d, a, b, c, emulator::Site::here());
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%10,%11,%12,%13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
        "f"(c[3]));
#endif
}

// fp32 to tf32, rounded to nearest, ties away from zero (cvt.rna). The low 13 bits of the result are
// unspecified.
CNNEXT_DEVICE uint32_t to_tf32(float value) {
#if !defined(CNNEXT_EMULATED) && CNNEXT_ARCH >= 800
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
#else
  const uint32_t bits = __float_as_uint(value);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return finite ? (bits + 0x1000u) & 0xffffe000u : bits;
#endif
}

// Matrices (1, 2 or 4) tiles of 8 rows × 8 16-bit values from shared memory. Lane 8·i + j names row j of tile
// i, 16 bytes, 16-byte aligned; with fewer than 4 tiles the addresses of the other lanes are not read. Lane l
// receives in fragment[i] the pair (row l / 4, columns 2·(l % 4) and + 1) of tile i, or of its transpose.
template <int Matrices, bool Transposed = false>
CNNEXT_DEVICE void ldmatrix(uint32_t (&fragment)[Matrices], const void* row) {
  static_assert(Matrices == 1 || Matrices == 2 || Matrices == 4, "ldmatrix loads 1, 2 or 4 tiles");
#if defined(CNNEXT_EMULATED)
  emulator::load_matrix(Matrices, Transposed, fragment, row, emulator::Site::here());
#else
  const uint32_t address = shared_address(row);
  if constexpr (Matrices == 1 && !Transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(fragment[0])
                 : "r"(address)
                 : "memory");
  } else if constexpr (Matrices == 1) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(fragment[0])
                 : "r"(address)
                 : "memory");
  } else if constexpr (Matrices == 2 && !Transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(fragment[0]), "=r"(fragment[1])
                 : "r"(address)
                 : "memory");
  } else if constexpr (Matrices == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(fragment[0]), "=r"(fragment[1])
                 : "r"(address)
                 : "memory");
  } else if constexpr (!Transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(address)
                 : "memory");
  }
#endif
}

}  // namespace cnnext::device
