// The products of Winograd's algorithm: for each position  M[k][t] = Σ_c U[c][k] · V[c][t].
// Layout: rows of k or t, dense, all sizes whole tiles: no test in the loop.
// Idea: both operands lie with c outermost, as an outer product wants them; so stages are copied by cp.async
// as they are, and a thread reads 2 · 2 vectors of shared memory for 64 multiplications.
#pragma once

#include "conv2d_winograd_config.h"
#include "device/cp_async.cuh"
#include "device/shared_memory.cuh"
#include "device/vec_load.cuh"

namespace cnnext::winograd {

using GemmShared = float[GemmConfig::kStages][GemmConfig::kStageFloats];

// Copies [kTileC][kWidth] of a matrix whose rows are `pitch` apart.
template <int kWidth>
class StageCopy {
 public:
  CNNEXT_DEVICE StageCopy(const float* matrix, int pitch)
      : from_(matrix + static_cast<int64_t>(threadIdx.x / kVectors) * pitch + threadIdx.x % kVectors * 4),
        apart_(static_cast<int64_t>(kRowsApart) * pitch),
        step_(static_cast<int64_t>(GemmConfig::kTileC) * pitch) {}

  CNNEXT_DEVICE void fetch(float* tile) {
#pragma unroll
    for (int i = 0; i < GemmConfig::kTileC / kRowsApart; ++i) {
      device::cp_async<16>(tile + (threadIdx.x + i * GemmConfig::kThreads) * 4, from_ + i * apart_, true);
    }
    from_ += step_;
  }

 private:
  static constexpr int kVectors = kWidth / 4, kRowsApart = GemmConfig::kThreads / kVectors;
  static_assert(GemmConfig::kTileC % kRowsApart == 0, "every thread copies as many vectors");
  const float* from_;
  int64_t apart_, step_;
};

// The lanes of a warp are 4 groups of k by 8 of t; a thread has two runs of 4 in each, 16 and 32 apart, so
// that 8 lanes read 8 neighbouring vectors or one and the same.
struct ThreadTile {
  int k, t;

  CNNEXT_DEVICE ThreadTile() {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    k = warp / 2 * 32 + lane / 8 * 4;
    t = warp % 2 * 64 + lane % 8 * 4;
  }
};

CNNEXT_DEVICE void multiply_stage(float (&sum)[8][8], const float* stage, const ThreadTile& at) {
#pragma unroll
  for (int c = 0; c < GemmConfig::kTileC; ++c) {
    const float* u = stage + c * GemmConfig::kTileK + at.k;
    const float* v = stage + GemmConfig::kTileC * GemmConfig::kTileK + c * GemmConfig::kTileT + at.t;
    const device::Vector<float, 4> us[2] = {device::load_vector<4>(u), device::load_vector<4>(u + 16)};
    const device::Vector<float, 4> vs[2] = {device::load_vector<4>(v), device::load_vector<4>(v + 32)};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[i][j] += us[i / 4][i % 4] * vs[j / 4][j % 4];
    }
  }
}

// Block (tile of t, tile of k, position).
__global__ void __launch_bounds__(GemmConfig::kThreads, 3)
    conv2d_winograd_gemm_kernel(const float* u, const float* v, float* m, int c, int k, int t) {
  constexpr int kAhead = GemmConfig::kStages - 1;
  auto& stages = device::dynamic_shared<GemmShared>();
  const int64_t position = blockIdx.z;
  const int first_k = blockIdx.y * GemmConfig::kTileK, first_t = blockIdx.x * GemmConfig::kTileT;
  StageCopy<GemmConfig::kTileK> copy_u(u + position * c * k + first_k, k);
  StageCopy<GemmConfig::kTileT> copy_v(v + position * c * t + first_t, t);
  const int steps = c / GemmConfig::kTileC;
  const auto fetch = [&](int stage) {
    copy_u.fetch(stages[stage]);
    copy_v.fetch(stages[stage] + GemmConfig::kTileC * GemmConfig::kTileK);
  };
  for (int ahead = 0; ahead < kAhead; ++ahead) {
    if (ahead < steps) fetch(ahead);
    device::cp_async_commit();
  }
  const ThreadTile at;
  float sum[8][8] = {};
  int read = 0, write = kAhead;
#pragma unroll 1
  for (int left = steps; left > 0; --left) {
    device::cp_async_wait<kAhead - 1>();
    __syncthreads();
    if (left > kAhead) fetch(write);
    device::cp_async_commit();
    multiply_stage(sum, stages[read], at);
    write = read;
    read = read + 1 == GemmConfig::kStages ? 0 : read + 1;
  }
  device::cp_async_wait<0>();
  float* out = m + (position * k + first_k + at.k) * t + first_t + at.t;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const device::Vector<float, 4> run{
          {sum[i][4 * j], sum[i][4 * j + 1], sum[i][4 * j + 2], sum[i][4 * j + 3]}};
      device::store_vector(out + static_cast<int64_t>(i / 4 * 16 + i % 4) * t + j * 32, run);
    }
  }
}

}  // namespace cnnext::winograd
