// The block tiles of the tensor-core convolution, as types for the kernels and as a table for the chooser.
//
// Every tile is multiplied by 4 warps, 2 × 2. Along gemm_k a stage holds 64 or 128 bytes a row: 32 or 64
// values of 16 bits, half as many of tf32, so that all dtypes have one layout of shared memory.
#pragma once

#include <cstdint>

namespace cnnext::tensor_core {

inline constexpr int kThreads = 128;
inline constexpr int kWarpsM = 2, kWarpsN = 2;
inline constexpr int kChunkBytes = 16;  // what cp.async and a row of ldmatrix move at once

template <int TileM_, int TileN_, int RowBytes_, int Stages_>
struct TileConfig {
  static constexpr int kTileM = TileM_, kTileN = TileN_, kRowBytes = RowBytes_, kStages = Stages_;
  static_assert(kRowBytes == 64 || kRowBytes == 128, "rows that fill the 32 banks by ones or by twos");
  static constexpr int kChunks = kRowBytes / kChunkBytes;
  static constexpr int kMmaSteps = kRowBytes / 32;  // an mma takes 32 bytes of a row
  static constexpr int kWarpM = kTileM / kWarpsM, kWarpN = kTileN / kWarpsN;
  static_assert(kWarpM % 16 == 0, "an mma has 16 rows");
  static_assert(kWarpN % 16 == 0, "one ldmatrix x4 feeds two mma, which have 8 columns each");
  static constexpr int kAccumulators = kWarpM * kWarpN / 32;
  static_assert(kAccumulators <= 128, "a thread has 255 registers, and fragments and addresses take 100");
  static_assert(kTileM * kChunks % kThreads == 0, "every thread copies as many 16-byte chunks of A");
  static_assert(kTileN * kChunks % kThreads == 0, "every thread copies as many 16-byte chunks of B");
  static_assert(kTileM <= kThreads, "each row of A is described by one thread");
  static constexpr int kStageBytes = (kTileM + kTileN) * kRowBytes;
  static_assert(kStages >= 2, "one stage is filled while another is multiplied");

  // Without cp.async data wait in registers and not in further stages: two are enough. Registers for 128
  // bytes a row are not left beside the accumulators.
  static constexpr bool kNeedsAsyncCopy = kRowBytes == 128;
  static constexpr int stages(bool has_async_copy) { return has_async_copy ? kStages : 2; }

  // The epilogue turns accumulators into rows of the output through the same memory, a slice at a time: 16
  // rows of each warp, or 16 columns. The padding keeps a fragment's lanes in different banks.
  static constexpr int kRowPitch = kTileN + 8, kColumnPitch = kTileM + 4;
  static constexpr int kSliceBytes =
      4 * 16 * (kWarpsM * kRowPitch > kWarpsN * kColumnPitch ? kWarpsM * kRowPitch : kWarpsN * kColumnPitch);
  static constexpr int buffer_bytes(bool has_async_copy) {
    const int bytes = stages(has_async_copy) * kStageBytes;
    return bytes > kSliceBytes ? bytes : kSliceBytes;
  }
  static_assert(buffer_bytes(true) <= 64 * 1024, "two blocks share the 164 KiB of an sm_80");
  static_assert(kNeedsAsyncCopy || buffer_bytes(true) <= 48 * 1024,
                "two share the 100 KiB of an sm_86 or sm_89");
  static_assert(kNeedsAsyncCopy || buffer_bytes(false) <= 31 * 1024, "two share the 64 KiB of an sm_75");
};

// 128 bytes a row: half the barriers, tests and addresses for each mma.
using Tile128x128 = TileConfig<128, 128, 128, 2>;
using Tile128x64 = TileConfig<128, 64, 64, 4>;
using Tile64x64 = TileConfig<64, 64, 64, 4>;
using Tile64x32 = TileConfig<64, 32, 64, 4>;

struct TileRow {
  const char* name;
  int tile_m, tile_n, row_bytes;
  bool needs_async_copy;
  // Which kernels there are: forward and input gradient value by value (by vectors there always is one),
  // weight gradient by vectors, and value by value.
  bool gathers, weight_by_vectors, weight_gathers;
};
template <class Config>
constexpr TileRow tile_row(const char* name, bool gathers, bool weight_by_vectors, bool weight_gathers) {
  return {name,    Config::kTileM,    Config::kTileN, Config::kRowBytes, Config::kNeedsAsyncCopy,
          gathers, weight_by_vectors, weight_gathers};
}
inline constexpr TileRow kTiles[] = {
    tile_row<Tile128x128>("128x128", false, true, false), tile_row<Tile128x64>("128x64", true, false, false),
    tile_row<Tile64x64>("64x64", false, true, true), tile_row<Tile64x32>("64x32", true, false, false)};
inline constexpr int kTileCount = sizeof(kTiles) / sizeof(kTiles[0]);

}  // namespace cnnext::tensor_core
