// The block tiles of the implicit GEMM on CUDA cores, as types for the kernels and as a table for the
// chooser.
//
// A warp is 8 lanes along M by 4 along N. A thread holds kThreadM × kThreadN accumulators, in chunks of 16
// bytes: the 8 lanes of a quarter of a warp then read 128 bytes side by side of A, and one address of B, from
// shared memory, each in one wavefront.
#pragma once

namespace cnnext::implicit_gemm {

// ComputeBytes is the size of what is accumulated: 4 or 8.
template <int TileM_, int TileN_, int TileK_, int ThreadM_, int ThreadN_, int ComputeBytes_, int Blocks_>
struct TileConfig {
  static constexpr int kTileM = TileM_, kTileN = TileN_, kTileK = TileK_;
  static constexpr int kThreadM = ThreadM_, kThreadN = ThreadN_;
  static constexpr int kLanesM = 8, kLanesN = 4;
  static constexpr int kWarpM = kLanesM * kThreadM, kWarpN = kLanesN * kThreadN;
  static constexpr int kWarpsM = kTileM / kWarpM, kWarpsN = kTileN / kWarpN;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int kChunk = 16 / ComputeBytes_;  // values of one load from shared memory
  // A row more of one chunk: the rows that a vector of channels is spread over start in different banks.
  static constexpr int kPitchM = kTileM + kChunk, kPitchN = kTileN + kChunk;
  static constexpr int kBlocks =
      Blocks_;  // of a multiprocessor, which sets how many registers a thread may have
  static constexpr int kAccumulatorWords = kThreadM * kThreadN * ComputeBytes_ / 4;

  static_assert(kTileM % kWarpM == 0 && kTileN % kWarpN == 0, "whole warps");
  static_assert(kThreadM % kChunk == 0 && kThreadN % kChunk == 0, "whole loads of 16 bytes");
  static_assert(kAccumulatorWords <= 64, "twice 64 registers of sums leave as many for the rest");
  static_assert(kBlocks * kThreads * (2 * kAccumulatorWords + 32) <= 65536,
                "two levels of sums, and what else a thread has, fit into a multiprocessor's registers");
  static_assert(kThreads % kTileM == 0, "a thread copies values of one pixel of the tile");
  static_assert(kThreads % kTileK == 0, "a thread copies weights of one row of the tile");
  static_assert(2 * kTileK * (kPitchM + kPitchN) * ComputeBytes_ <= 40 * 1024,
                "two tiles and the tables of taps fit into the 48 KiB of static shared memory");
};

using Tile128x128 = TileConfig<128, 128, 8, 8, 8, 4, 1>;
using Tile128x64 = TileConfig<128, 64, 8, 8, 8, 4, 2>;
using Tile64x64 = TileConfig<64, 64, 8, 8, 8, 4, 4>;
using Tile64x32 = TileConfig<64, 32, 8, 4, 8, 4, 6>;
// 16-bit values are copied as such and widened on the way to shared memory: 16 of them are a sector.
using Tile64x64Narrow = TileConfig<64, 64, 16, 8, 8, 4, 4>;
using Tile64x64Double = TileConfig<64, 64, 8, 4, 4, 8, 1>;

struct TileRow {
  const char* name;
  int tile_m, tile_n;
  int blocks_per_multiprocessor;
  double speed;  // of the arithmetic, relative to the largest tile: it loads less for each product
};

// For float32; the others have one tile each.
inline constexpr TileRow kTiles[] = {
    {"128x128", 128, 128, Tile128x128::kBlocks, 1.0},
    {"128x64", 128, 64, Tile128x64::kBlocks, 0.9},
    {"64x64", 64, 64, Tile64x64::kBlocks, 0.8},
    {"64x32", 64, 32, Tile64x32::kBlocks, 0.6},
};
inline constexpr int kTileCount = 4;
inline constexpr TileRow kNarrowTile = {"64x64x16", 64, 64, Tile64x64Narrow::kBlocks, 0.8};
inline constexpr TileRow kDoubleTile = {"64x64 float64", 64, 64, Tile64x64Double::kBlocks, 0.8};

inline constexpr int kMaxPhases = 8;  // of an axis, the largest stride of an input gradient

}  // namespace cnnext::implicit_gemm
