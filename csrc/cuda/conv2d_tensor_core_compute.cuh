// One stage of the tensor-core convolution: fragments from shared memory, and the mma over them.
//
// A reader knows the addresses of a lane's fragments; they do not change from stage to stage, and within a
// stage they differ by constants. `step` counts 32 bytes of gemm_k: one mma of 16 values of 16 bits, or 8 of
// tf32.
// Fragments of 16 rows of A are the registers of device/mma.cuh; of 16 columns of B, {b0, b1} of the first 8
// columns and {b0, b1} of the others.
#pragma once

#include "conv2d_tensor_core_tile.cuh"
#include "device/mma.cuh"
#include "device/warp.cuh"

namespace cnnext::tensor_core {

enum class Operand { kA, kB };

// From a KContiguous tile by ldmatrix, which for 32-bit values moves rows of 4 and lands as tf32 wants them.
template <Operand kOperand, int kRowBytes, int kWarpTile>
struct KContiguousReader {
  static constexpr int kSteps = kRowBytes / 32;
  int offset[kSteps];

  CNNEXT_DEVICE KContiguousReader(int warp, int lane) {
    const bool is_a = kOperand == Operand::kA;
    const int row = warp * kWarpTile + (is_a ? lane % 16 : lane / 16 * 8 + lane % 8);
    const int chunk = is_a ? lane / 16 : lane / 8 % 2;
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
      offset[step] = KContiguous<kRowBytes>::offset(row, chunk + 2 * step);
  }
  CNNEXT_DEVICE void load(uint32_t (&fragment)[4], const char* tile, int block, int step) const {
    device::ldmatrix<4>(fragment, tile + offset[step] + block * 16 * kRowBytes);
  }
};

// From a KStrided tile: ldmatrix with .trans for 16-bit values.
template <class T, Operand kOperand, int kTile, int kWarpTile>
struct KStridedReader {
  static_assert(sizeof(T) == 2, "ldmatrix transposes 16-bit values only");
  using Tile = KStrided<T, kTile>;
  int offset[kWarpTile / 16];  // by block of 16 rows or columns: the swizzle forbids a common distance

  CNNEXT_DEVICE KStridedReader(int warp, int lane) {
    const bool is_a = kOperand == Operand::kA;
    const int row = (is_a ? lane / 16 : lane / 8 % 2) * 8 + lane % 8;
    const int chunk = warp * kWarpTile / 8 + (is_a ? lane / 8 % 2 : lane / 16);
#pragma unroll
    for (int block = 0; block < kWarpTile / 16; ++block) {
      offset[block] = Tile::offset(row, chunk + 2 * block);
    }
  }
  CNNEXT_DEVICE void load(uint32_t (&fragment)[4], const char* tile, int block, int step) const {
    device::ldmatrix<4, true>(fragment, tile + offset[block] + step * 16 * Tile::kPitch);
  }
};

// 32-bit values one by one.
template <Operand kOperand, int kTile, int kWarpTile>
struct KStridedReader<float, kOperand, kTile, kWarpTile> {
  using Tile = KStrided<float, kTile>;
  static_assert(kWarpTile % 32 == 0, "the swizzle repeats after 32 values");
  int offset[4];  // by (group of 8 values) mod 4

  CNNEXT_DEVICE KStridedReader(int warp, int lane) {
    const int value = lane / 4, k = lane % 4;
#pragma unroll
    for (int group = 0; group < 4; ++group) {
      offset[group] = Tile::offset(k, (warp * kWarpTile + group * 8 + value) / 4) + value % 4 * 4;
    }
  }
  CNNEXT_DEVICE void load(uint32_t (&fragment)[4], const char* tile, int block, int step) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int upper_k = kOperand == Operand::kA ? i / 2 : i % 2;
      const int upper_value = kOperand == Operand::kA ? i % 2 : i / 2;
      const int group = block * 2 + upper_value;
      const char* word =
          tile + offset[group % 4] + group / 4 * 32 * 4 + (step * 8 + upper_k * 4) * Tile::kPitch;
      fragment[i] = *reinterpret_cast<const uint32_t*>(word);
    }
  }
};

CNNEXT_DEVICE void round_to_tf32(uint32_t (&fragment)[4]) {
#pragma unroll
  for (uint32_t& word : fragment) word = device::to_tf32(__uint_as_float(word));
}

template <class T>
CNNEXT_DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (sizeof(T) == 4) {
    device::mma_m16n8k8_tf32(d, a, b, d);
  } else {
    device::mma_m16n8k16<T>(d, a, b, d);
  }
}

template <class Config>
using Accumulators = float[Config::kWarpM / 16][Config::kWarpN / 8][4];

// `kBIsRounded`: the values of B are tf32 numbers already.
template <class Config, class T, bool kBIsRounded, class ReaderA, class ReaderB>
CNNEXT_DEVICE void multiply_stage(Accumulators<Config>& d, const ReaderA& reader_a, const ReaderB& reader_b,
                                  const char* tile_a, const char* tile_b) {
  constexpr int kBlocksM = Config::kWarpM / 16, kBlocksN = Config::kWarpN / 16;
#pragma unroll
  for (int step = 0; step < Config::kMmaSteps; ++step) {
    uint32_t a[kBlocksM][4], b[kBlocksN][4];
#pragma unroll
    for (int i = 0; i < kBlocksM; ++i) {
      reader_a.load(a[i], tile_a, i, step);
      if constexpr (sizeof(T) == 4) round_to_tf32(a[i]);
    }
#pragma unroll
    for (int j = 0; j < kBlocksN; ++j) {
      reader_b.load(b[j], tile_b, j, step);
      if constexpr (sizeof(T) == 4 && !kBIsRounded) round_to_tf32(b[j]);
    }
#pragma unroll
    for (int i = 0; i < kBlocksM; ++i) {
#pragma unroll
      for (int j = 0; j < kBlocksN; ++j) {
        multiply<T>(d[i][2 * j], a[i], {b[j][0], b[j][1]});
        multiply<T>(d[i][2 * j + 1], a[i], {b[j][2], b[j][3]});
      }
    }
  }
}

}  // namespace cnnext::tensor_core
