// One block's tile of an implicit GEMM on CUDA cores: what lies in shared memory, and how it is multiplied.
//
// The idea beyond the direct kernel: a thread keeps kThreadM × kThreadN sums in registers, so that each value
// it reads from shared memory is used kThreadM or kThreadN times, and each that the block reads from global
// memory kTileM or kTileN times. Two buffers: while one is multiplied, the next tile is on its way through
// registers. (Source: Volkov and Demmel, "Benchmarking GPUs to tune dense linear algebra", SC 2008)
#pragma once

#include "conv2d_implicit_gemm_config.h"
#include "device/convert.cuh"
#include "device/vec_load.cuh"
#include "device/warp.cuh"

namespace cnnext::implicit_gemm {

inline constexpr int kOutside = -(1 << 30);  // a row or column outside every image, also of another

template <class Config, class C>
struct Tiles {  // gemm_k is the slow index: the values of one product step lie side by side
  alignas(16) C a[2][Config::kTileK][Config::kPitchM];
  alignas(16) C b[2][Config::kTileK][Config::kPitchN];
};

// A table of what kChainTiles tiles read along gemm_k, and of what the next as many do: a ring of two halves.
// It is made once for a chain of tiles, outside of the main loop.
inline constexpr int kChain = 32;  // values of gemm_k

template <class Entry>
struct Table {
  Entry entry[2 * kChain];

  CNNEXT_DEVICE Entry* at(int kk) { return &entry[kk % (2 * kChain)]; }
};

// Where a thread's accumulators lie in the tile of the block.
template <class Config>
struct ThreadPlace {
  int m, n;  // of the first accumulator

  CNNEXT_DEVICE ThreadPlace() {
    const int thread = static_cast<int>(threadIdx.x);
    const int lane = thread % device::kWarpSize, warp = thread / device::kWarpSize;
    m = warp % Config::kWarpsM * Config::kWarpM + lane % Config::kLanesM * Config::kChunk;
    n = warp / Config::kWarpsM * Config::kWarpN + lane / Config::kLanesM * Config::kChunk;
  }
  // Chunks of a lane are a warp's row of chunks apart.
  CNNEXT_DEVICE int chunk_m(int chunk) const { return m + chunk * Config::kLanesM * Config::kChunk; }
  CNNEXT_DEVICE int chunk_n(int chunk) const { return n + chunk * Config::kLanesN * Config::kChunk; }
};

// Sums in two levels: a chain of kChain products, and the total of the chains. The error then grows with
// the length of a chain and with their number, not with their product, as it does in the blocked sums of CPU
// libraries. 16-bit values need no second level: what they lost before they came here is more.
template <class Config, class T>
struct Accumulators {
  using C = compute_t<T>;
  static constexpr bool kTwoLevels = sizeof(T) >= 4;

  C value[Config::kThreadM][Config::kThreadN] = {};
  C total[kTwoLevels ? Config::kThreadM : 1][kTwoLevels ? Config::kThreadN : 1] = {};

  CNNEXT_DEVICE void end_chain() {
    if constexpr (kTwoLevels) {
#pragma unroll
      for (int i = 0; i < Config::kThreadM; ++i) {
#pragma unroll
        for (int j = 0; j < Config::kThreadN; ++j) total[i][j] += value[i][j], value[i][j] = 0;
      }
    }
  }
  CNNEXT_DEVICE C sum(int i, int j) const {
    if constexpr (kTwoLevels) return total[i][j];
    return value[i][j];
  }

  // Adds the product of the tiles in `buffer`.
  CNNEXT_DEVICE void multiply(const Tiles<Config, C>& tiles, int buffer, const ThreadPlace<Config>& place) {
    constexpr int kChunk = Config::kChunk;
#pragma unroll
    for (int kk = 0; kk < Config::kTileK; ++kk) {
      C a[Config::kThreadM], b[Config::kThreadN];
#pragma unroll
      for (int chunk = 0; chunk < Config::kThreadM / kChunk; ++chunk) {
        const auto values = device::load_vector<kChunk>(&tiles.a[buffer][kk][place.chunk_m(chunk)]);
#pragma unroll
        for (int i = 0; i < kChunk; ++i) a[chunk * kChunk + i] = values[i];
      }
#pragma unroll
      for (int chunk = 0; chunk < Config::kThreadN / kChunk; ++chunk) {
        const auto values = device::load_vector<kChunk>(&tiles.b[buffer][kk][place.chunk_n(chunk)]);
#pragma unroll
        for (int i = 0; i < kChunk; ++i) b[chunk * kChunk + i] = values[i];
      }
#pragma unroll
      for (int i = 0; i < Config::kThreadM; ++i) {
#pragma unroll
        for (int j = 0; j < Config::kThreadN; ++j) value[i][j] += a[i] * b[j];
      }
    }
  }
};

// How an operand is copied. Its tile is [kTileK][extent], extent = kTileM or kTileN.
enum class Load {
  scalar,        // any strides, a value at a time: neighbouring lanes copy neighbours along the extent
  scalar_k,      // the same, but along gemm_k: so they lie in an NHWC image whose channels fill no vector
  vector_k,      // gemm_k is contiguous in memory: a vector along it, written to as many rows of the tile
  vector_extent  // the extent is: a vector along it, written to one row of the tile
};

// The copies of one thread by vectors, along gemm_k or along the extent: as many values as 16 bytes of shared
// memory hold, 8 bytes of a 16-bit dtype.
template <class Config, class T, int kExtent, bool kAlongK>
struct VectorCopy {
  static constexpr int kVector = Config::kChunk;
  static constexpr int kPerRow = (kAlongK ? Config::kTileK : kExtent) / kVector;
  static constexpr int kStep = Config::kThreads / kPerRow;  // rows that the block copies at once
  static constexpr int kCount = (kAlongK ? kExtent : Config::kTileK) / kStep;
  static_assert(Config::kThreads % kPerRow == 0 && kCount >= 1, "every thread copies as much");

  device::Vector<T, kVector> values[kCount];

  CNNEXT_DEVICE static int vector() { return static_cast<int>(threadIdx.x) % kPerRow * kVector; }
  CNNEXT_DEVICE static int row(int i) { return static_cast<int>(threadIdx.x) / kPerRow + i * kStep; }

  template <class C, int kPitch>
  CNNEXT_DEVICE void store(C (&tile)[Config::kTileK][kPitch]) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if constexpr (kAlongK) {
        // With four vectors a row the second two start in the banks of the first two: they go round by half.
        const bool turned = sizeof(T) == 2 && vector() >= Config::kTileK / 2;
#pragma unroll
        for (int j = 0; j < kVector; ++j) {
          constexpr int kHalf = kVector / 2;
          const T value = turned ? values[i][(j + kHalf) % kVector] : values[i][j];
          tile[vector() + (turned ? (j + kHalf) % kVector : j)][row(i)] = device::to_compute(value);
        }
      } else {
        device::Vector<C, kVector> widened;
#pragma unroll
        for (int j = 0; j < kVector; ++j) widened[j] = device::to_compute(values[i][j]);
        device::store_vector(&tile[row(i)][vector()], widened);
      }
    }
  }
};

// The copies of one thread by values: lanes along the extent, or (kAlongK) along gemm_k.
template <class Config, class T, int kExtent, bool kAlongK>
struct ScalarCopy {
  static constexpr int kStep = Config::kThreads / (kAlongK ? Config::kTileK : kExtent);
  static constexpr int kCount = (kAlongK ? kExtent : Config::kTileK) / kStep;
  static_assert(kStep >= 1 && kCount >= 1, "every thread copies as much");

  T values[kCount];

  CNNEXT_DEVICE static int lane() {
    return static_cast<int>(threadIdx.x) % (kAlongK ? Config::kTileK : kExtent);
  }
  CNNEXT_DEVICE static int row(int i) {
    return static_cast<int>(threadIdx.x) / (kAlongK ? Config::kTileK : kExtent) + i * kStep;
  }

  template <class C, int kPitch>
  CNNEXT_DEVICE void store(C (&tile)[Config::kTileK][kPitch]) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      C& place = kAlongK ? tile[lane()][row(i)] : tile[row(i)][lane()];
      place = device::to_compute(values[i]);
    }
  }
};

}  // namespace cnnext::implicit_gemm
