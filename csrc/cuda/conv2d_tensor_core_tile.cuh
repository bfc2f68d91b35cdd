// Where a 16-byte chunk of a tile lies in shared memory. Chunks are exchanged within a row (a swizzle) so
// that the 8 rows that ldmatrix reads at once, and the chunks that 8 neighbouring threads write, lie in all
// 32 banks.
#pragma once

#include "conv2d_tensor_core_config.h"
#include "device/platform.cuh"

namespace cnnext::tensor_core {

template <class T>
inline constexpr int kPerChunk = kChunkBytes / static_cast<int>(sizeof(T));
template <class Config, class T>
inline constexpr int kTileK = Config::kRowBytes / static_cast<int>(sizeof(T));

// The place of a chunk in row `row` of a KContiguous tile; given a place, the chunk that lies there.
CNNEXT_DEVICE int swizzled_chunk(int row, int chunk, int chunks) {
  return chunk ^ (chunks == 8 ? row % 8 : row / 2 % 4);
}

// A tile [rows][kTileK] of gemm_m or gemm_n by gemm_k.
template <int kRowBytes>
struct KContiguous {
  static CNNEXT_DEVICE int offset(int row, int chunk) {
    return row * kRowBytes + swizzled_chunk(row, chunk, kRowBytes / kChunkBytes) * kChunkBytes;
  }
};

// A tile [kTileK][kTile] of gemm_k by gemm_m or gemm_n: a row fills the banks once or more.
template <class T, int kTile>
struct KStrided {
  static constexpr int kPitch = kTile * static_cast<int>(sizeof(T));
  static_assert(kPitch % 128 == 0, "the swizzle takes a row to be a multiple of the 32 banks");
  // 32-bit values are read one by one, 8 neighbours from each of 4 rows: pairs of chunks stay together.
  static CNNEXT_DEVICE int offset(int row, int chunk) {
    return row * kPitch + (chunk ^ (sizeof(T) == 2 ? row % 8 : row % 4 * 2)) * kChunkBytes;
  }
};

}  // namespace cnnext::tensor_core
