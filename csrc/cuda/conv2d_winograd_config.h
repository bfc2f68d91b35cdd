// The sizes of the Winograd kernels, for the kernels and for the chooser.
#pragma once

#include <cstdint>

namespace cnnext::winograd {

// The products of one position: [kTileC of channels][kTileK of outputs] by [kTileC][kTileT of tiles], by 4
// warps, 2 × 2, each thread 8 × 8.
struct GemmConfig {
  static constexpr int kTileK = 64, kTileT = 128, kTileC = 16, kStages = 3;
  static constexpr int kThreads = 128;
  static_assert(kTileK * kTileT == kThreads * 64,
                "a thread has 64 sums: more loads of shared memory with fewer");
  static constexpr int kStageFloats = kTileC * (kTileK + kTileT);
  static constexpr int kSharedBytes = kStages * kStageFloats * 4;
  static_assert(kSharedBytes <= 48 * 1024, "more must be asked for at every launch");
};

// F(2 × 2) in one kernel: 16 positions of [kTileT of tiles][kTileK of outputs], 2 positions a warp, each
// thread 8 × 8 of both.
struct FusedConfig {
  static constexpr int kTileT = 32, kTileK = 64, kTileC = 8, kThreads = 256;
  static_assert(kTileT * kTileC == kThreads, "a thread transforms one tile of one channel");
  static_assert(16 * kTileT * kTileK == kThreads * 128, "a thread has 128 sums, half of its registers");
  static constexpr int kPitch = kTileT + 4;  // 8 channels of 4 tiles lie in different banks
  static constexpr int kExchangedK = 16;
  static constexpr int kSharedBytes = 16 * kTileC * (2 * kTileK + kPitch) * 4;
  static_assert(kSharedBytes <= 99 * 1024, "sm_86 and sm_89 give a block at most 99 KiB");
};

// Transforms: 32 channels by 8 tiles a block. In NHWC a warp reads 32 channels, and writes 8 tiles of 4: a
// sector.
inline constexpr int kBlockChannels = 32, kBlockTiles = 8, kTransformThreads = kBlockChannels * kBlockTiles;

// Tiles are transformed and multiplied in chunks, whose workspace stays in the L2 cache.
inline constexpr int64_t kChunkBytes = int64_t{24} << 20;

}  // namespace cnnext::winograd
