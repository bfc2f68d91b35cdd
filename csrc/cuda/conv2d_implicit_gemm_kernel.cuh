// conv2d by implicit GEMM on CUDA cores: forward and input gradient.
//   y[m, n] = epilogue(Σ_kk A[m, kk] · B[kk, n])   m: pixel, n: output channel, kk: (channel, tap) of the
//   group
// Layout: images NCHW or NHWC, weights in either; A is never written out, but found through a table of taps.
// Idea: conv2d_implicit_gemm_tile.cuh, and a table that says what each step along gemm_k reads, so that a
// thread finds channel and tap by one load.
// The input gradient of a strided convolution is one such gather for each phase (conv2d_layout.cuh).
// Limits: fewer than 2^31 pixels, weights, and elements of an image; strides of a gradient up to kMaxPhases.
#pragma once

#include <string>

#include "conv2d_epilogue.cuh"
#include "conv2d_implicit_gemm_gather.cuh"
#include "device/launch.cuh"
#include "device/shared_memory.cuh"

namespace cnnext::implicit_gemm {

// Offset of destination pixel m, channel 0 of the tensor.
CNNEXT_DEVICE int64_t destination_pixel(const GatherProblem& problem, const GemmAxis& rows,
                                        const GemmAxis& cols, int m) {
  const uint32_t line = cols.by_count.quotient(static_cast<uint32_t>(m));
  const uint32_t image = rows.by_count.quotient(line);
  const int j = m - static_cast<int>(line) * cols.count;
  const int i = static_cast<int>(line - image * rows.by_count.divisor);
  return image * problem.destination.n + (rows.first + i * rows.first_step) * problem.destination.h +
         (cols.first + j * cols.first_step) * problem.destination.w;
}

// Accumulators to memory, one pixel at a time: channels side by side as vectors, or one by one.
template <bool kVectors, class Config, class T, class E, class Sums>
CNNEXT_DEVICE void store_pixels(const GatherProblem& problem, const GemmAxis& rows, const GemmAxis& cols,
                                const Accumulators<Config, T>& sums, const E& epilogue, T* destination,
                                int group, int m0, int n0, int m_count, Sums& statistics) {
  using C = compute_t<T>;
  constexpr int kChunk = Config::kChunk;
  const ThreadPlace<Config> place;
#pragma unroll
  for (int i = 0; i < Config::kThreadM; ++i) {
    const int m = m0 + place.chunk_m(i / kChunk) + i % kChunk;
    if (m >= m_count) continue;
    const int64_t pixel = destination_pixel(problem, rows, cols, m);
#pragma unroll
    for (int chunk = 0; chunk < Config::kThreadN / kChunk; ++chunk) {
      const int n = n0 + place.chunk_n(chunk);
      const int64_t k = int64_t{group} * problem.out + n;
      if constexpr (kVectors) {
        if (n >= problem.out) continue;
        C acc[kChunk];
#pragma unroll
        for (int j = 0; j < kChunk; ++j) acc[j] = sums.sum(i, chunk * kChunk + j);
        const auto values = epilogue.template apply<true>(acc, k, pixel + k);
        device::store_vector(destination + pixel + k, values);
        if constexpr (E::kHasStatistics) {
#pragma unroll
          for (int j = 0; j < kChunk; ++j) {
            statistics.add(chunk * kChunk + j, device::to_compute(values[j]) - epilogue.shift_of(k + j));
          }
        }
      } else {
#pragma unroll
        for (int j = 0; j < kChunk; ++j) {
          if (n + j >= problem.out) continue;
          const int64_t offset = pixel + (k + j) * problem.destination.c;
          const auto value = epilogue.apply(sums.sum(i, chunk * kChunk + j), k + j, offset);
          destination[offset] = value;
          if constexpr (E::kHasStatistics) {
            statistics.add(chunk * kChunk + j, device::to_compute(value) - epilogue.shift_of(k + j));
          }
        }
      }
    }
  }
}

// NCHW whose planes are whole chunks: pixels side by side as vectors.
template <class Config, class T, class E, class Sums>
CNNEXT_DEVICE void store_channels(const GatherProblem& problem, const GemmAxis& rows, const GemmAxis& cols,
                                  const Accumulators<Config, T>& sums, const E& epilogue, T* destination,
                                  int group, int m0, int n0, int m_count, Sums& statistics) {
  using C = compute_t<T>;
  constexpr int kChunk = Config::kChunk;
  const ThreadPlace<Config> place;
#pragma unroll
  for (int chunk = 0; chunk < Config::kThreadM / kChunk; ++chunk) {
    const int m = m0 + place.chunk_m(chunk);
    if (m >= m_count) continue;
    const int64_t pixel = destination_pixel(problem, rows, cols, m);
#pragma unroll
    for (int j = 0; j < Config::kThreadN; ++j) {
      const int n = n0 + place.chunk_n(j / kChunk) + j % kChunk;
      if (n >= problem.out) continue;
      const int64_t k = int64_t{group} * problem.out + n, offset = pixel + k * problem.destination.c;
      C acc[kChunk];
#pragma unroll
      for (int i = 0; i < kChunk; ++i) acc[i] = sums.sum(chunk * kChunk + i, j);
      const auto values = epilogue.template apply<false>(acc, k, offset);
      device::store_vector(destination + offset, values);
      if constexpr (E::kHasStatistics) {
#pragma unroll
        for (int i = 0; i < kChunk; ++i) {
          statistics.add(j, device::to_compute(values[i]) - epilogue.shift_of(k));
        }
      }
    }
  }
}

// Per-channel sums of the block's tile, for E::kHasStatistics.
template <class Config, class C, class E>
CNNEXT_DEVICE void finish_statistics(const E& epilogue, ChannelSums<C, Config::kThreadN>& statistics,
                                     int group, int n0, int out) {
  auto& storage = device::static_shared<StatisticsStorage<C, Config::kWarpsM, Config::kTileN>>();
  const ThreadPlace<Config> place;
  statistics.template add_lanes<0, 3>();  // the 8 lanes along M
  const int thread = static_cast<int>(threadIdx.x);
  if (thread % Config::kLanesM == 0) {
    const int warp_m = thread / device::kWarpSize % Config::kWarpsM;
#pragma unroll
    for (int j = 0; j < Config::kThreadN; ++j) {
      const int channel = place.chunk_n(j / Config::kChunk) + j % Config::kChunk;
      storage.partial[warp_m][0][channel] = statistics.sum[j];
      storage.partial[warp_m][1][channel] = statistics.square[j];
    }
  }
  store_statistics<Config::kThreads>(storage, epilogue, blockIdx.x, int64_t{group} * out + n0, out - n0);
}

template <class Config, class T, Load kSource, Load kWeight, class E>
__global__ void __launch_bounds__(Config::kThreads, Config::kBlocks)
    conv2d_gather_implicit_gemm_kernel(const GatherProblem problem, const T* source, const T* weight,
                                       const E epilogue, T* destination) {
  using C = compute_t<T>;
  const int phases = problem.phases_h * problem.phases_w;
  const int group = static_cast<int>(blockIdx.z) / phases, phase = static_cast<int>(blockIdx.z) % phases;
  const GemmAxis rows = problem.rows[phase / problem.phases_w], cols = problem.cols[phase % problem.phases_w];
  const int m0 = static_cast<int>(blockIdx.x) * Config::kTileM,
            n0 = static_cast<int>(blockIdx.y) * Config::kTileN;
  const int m_count = problem.images * rows.count * cols.count;
  if (m0 >= m_count) return;  // the whole block: the grid is as large as the largest phase asks for

  auto& tiles = device::static_shared<Tiles<Config, C>>();
  auto& table = device::static_shared<Table<TapEntry>>();
  const int gemm_k = problem.in * rows.taps * cols.taps, thread = static_cast<int>(threadIdx.x);
  const auto describe_taps = [&](int begin) {
    for (int kk = begin + thread; kk < begin + kChain; kk += Config::kThreads) {
      device::store_vector(table.at(kk)->values, tap_entry(problem, rows, cols, gemm_k, kk));
    }
  };
  SourceCopy<Config, T, kSource> source_copy(problem, rows, cols, source, group, m0);
  WeightCopy<Config, T, kWeight> weight_copy(problem, weight, group, n0);
  const ThreadPlace<Config> place;
  Accumulators<Config, T> sums;

  describe_taps(0);
  __syncthreads();
  source_copy.load(problem, table.at(0));
  weight_copy.load(table.at(0));
  source_copy.store(tiles.a[0]);
  weight_copy.store(tiles.b[0]);
  __syncthreads();
  int buffer = 0;
#pragma unroll 1
  for (int kk = 0; kk < gemm_k;) {
    describe_taps(kk + kChain);  // the half of the ring that the chain before has left
    const int chain_end = smaller(kk + kChain, gemm_k);
#pragma unroll 1
    for (; kk < chain_end; kk += Config::kTileK, buffer ^= 1) {
      // Behind the last tile the table says that nothing is there: no branch around loads and stores.
      source_copy.load(problem, table.at(kk + Config::kTileK));
      weight_copy.load(table.at(kk + Config::kTileK));
      sums.multiply(tiles, buffer, place);
      source_copy.store(tiles.a[buffer ^ 1]);
      weight_copy.store(tiles.b[buffer ^ 1]);
      __syncthreads();
    }
    sums.end_chain();
  }

  ChannelSums<C, E::kHasStatistics ? Config::kThreadN : 1> statistics;
  if (problem.store == StoreOrder::along_channels) {
    store_pixels<true>(problem, rows, cols, sums, epilogue, destination, group, m0, n0, m_count, statistics);
  } else if (problem.store == StoreOrder::along_pixels) {
    store_channels(problem, rows, cols, sums, epilogue, destination, group, m0, n0, m_count, statistics);
  } else {
    store_pixels<false>(problem, rows, cols, sums, epilogue, destination, group, m0, n0, m_count, statistics);
  }
  if constexpr (E::kHasStatistics) {
    finish_statistics<Config>(epilogue, statistics, group, n0, problem.out);
  }
}

}  // namespace cnnext::implicit_gemm
