// One warp multiplies A[16][K] by B[K][8] on tensor cores, through each way to load the fragments.
#pragma once

#include "cuda/device/mma.cuh"
#include "cuda/device/shared_memory.cuh"

namespace faults {

constexpr int kLayoutK = 32;

template <class T>
struct Operands {
  alignas(16) T a[16][kLayoutK];
  alignas(16) T b[kLayoutK][8];             // as B is
  alignas(16) T b_transposed[8][kLayoutK];  // as the instruction wants it
};

template <class T>
CNNEXT_DEVICE Operands<T>& load_operands(const T* a, const T* b) {
  auto& shared = cnnext::device::dynamic_shared<Operands<T>>();
  for (int i = threadIdx.x; i < 16 * kLayoutK; i += 32) {
    shared.a[i / kLayoutK][i % kLayoutK] = a[i];
  }
  for (int i = threadIdx.x; i < kLayoutK * 8; i += 32) {
    shared.b[i / 8][i % 8] = b[i];
    shared.b_transposed[i % 8][i / 8] = b[i];
  }
  __syncthreads();
  return shared;
}

CNNEXT_DEVICE void store_accumulators(const float (&d)[4], float* y) {
  const int group = threadIdx.x / 4, member = threadIdx.x % 4;
  for (int i = 0; i < 4; ++i) {
    y[(group + i / 2 * 8) * 8 + member * 2 + i % 2] = d[i];
  }
}

// A by ldmatrix x4; B by x2 from its transpose, or by x2 with .trans from B itself.
template <class T, bool kTransposed>
__global__ void mma_k16_kernel(const T* a, const T* b, float* y) {
  auto& shared = load_operands(a, b);
  const int lane = threadIdx.x;
  float d[4] = {};
  for (int k = 0; k < kLayoutK; k += 16) {
    uint32_t a_fragment[4], b_fragment[2];
    cnnext::device::ldmatrix<4>(a_fragment, &shared.a[lane % 16][k + lane / 16 * 8]);
    if constexpr (kTransposed) {
      cnnext::device::ldmatrix<2, true>(b_fragment, &shared.b[k + lane % 16][0]);
    } else {
      cnnext::device::ldmatrix<2>(b_fragment, &shared.b_transposed[lane % 8][k + lane / 8 % 2 * 8]);
    }
    cnnext::device::mma_m16n8k16<T>(d, a_fragment, b_fragment, d);
  }
  store_accumulators(d, y);
}

// The sm_75 shape: A by ldmatrix x2, B by x1, plain or with .trans.
template <bool kTransposed>
__global__ void mma_k8_kernel(const __half* a, const __half* b, float* y) {
  auto& shared = load_operands(a, b);
  const int lane = threadIdx.x;
  float d[4] = {};
  for (int k = 0; k < kLayoutK; k += 8) {
    uint32_t a_fragment[2], b_fragment[1];
    cnnext::device::ldmatrix<2>(a_fragment, &shared.a[lane % 16][k]);
    if constexpr (kTransposed) {
      cnnext::device::ldmatrix<1, true>(b_fragment, &shared.b[k + lane % 8][0]);
    } else {
      cnnext::device::ldmatrix<1>(b_fragment, &shared.b_transposed[lane % 8][k]);
    }
    cnnext::device::mma_m16n8k8_f16(d, a_fragment[0], a_fragment[1], b_fragment[0], d);
  }
  store_accumulators(d, y);
}

// A by ldmatrix x4 with .trans, from four tiles that hold A transposed one by one: the transposes cancel.
__global__ void ldmatrix_trans_kernel(const __half* a, const __half* b, float* y) {
  auto& shared = load_operands(a, b);
  auto& tiles = shared.b_transposed;  // [8][32]: four 8 × 8 tiles side by side, overwritten below
  const int lane = threadIdx.x;
  uint32_t b_fragment[2];
  cnnext::device::ldmatrix<2, true>(b_fragment, &shared.b[lane % 16][0]);
  __syncthreads();
  for (int i = lane; i < 256; i += 32) {
    const int tile = i / 64, row = i % 8, column = i / 8 % 8;
    tiles[column][tile * 8 + row] = shared.a[tile % 2 * 8 + row][tile / 2 * 8 + column];
  }
  __syncthreads();
  uint32_t a_fragment[4];
  cnnext::device::ldmatrix<4, true>(a_fragment, &tiles[lane % 8][lane / 8 * 8]);
  float d[4] = {};
  cnnext::device::mma_m16n8k16<__half>(d, a_fragment, b_fragment, d);
  store_accumulators(d, y);
}

__global__ void mma_tf32_kernel(const float* a, const float* b, float* y) {
  using cnnext::device::to_tf32;
  const int group = threadIdx.x / 4, member = threadIdx.x % 4;
  float d[4] = {};
  for (int k = 0; k < kLayoutK; k += 8) {
    const float* row = a + group * kLayoutK + k + member;
    const float* column = b + (k + member) * 8 + group;
    const uint32_t a_fragment[4] = {to_tf32(row[0]), to_tf32(row[8 * kLayoutK]), to_tf32(row[4]),
                                    to_tf32(row[8 * kLayoutK + 4])};
    const uint32_t b_fragment[2] = {to_tf32(column[0]), to_tf32(column[4 * 8])};
    cnnext::device::mma_m16n8k8_tf32(d, a_fragment, b_fragment, d);
  }
  store_accumulators(d, y);
}

}  // namespace faults
