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

#include "conv2d_implicit_gemm_gather.cuh"
#include "conv2d_moments.cuh"
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
template <bool kVectors, class Config, class T>
CNNEXT_DEVICE void store_pixels(const GatherProblem& problem, const GemmAxis& rows, const GemmAxis& cols,
                                const Accumulators<Config, T>& sums, const Conv2dEpilogue<T>& epilogue,
                                T* destination, int group, int m0, int n0, int m_count) {
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
        device::store_vector(destination + pixel + k, epilogue.template apply<true>(acc, k, pixel + k));
      } else {
#pragma unroll
        for (int j = 0; j < kChunk; ++j) {
          if (n + j >= problem.out) continue;
          const int64_t offset = pixel + (k + j) * problem.destination.c;
          destination[offset] = epilogue.apply(sums.sum(i, chunk * kChunk + j), k + j, offset);
        }
      }
    }
  }
}

// NCHW whose planes are whole chunks: pixels side by side as vectors.
template <class Config, class T>
CNNEXT_DEVICE void store_channels(const GatherProblem& problem, const GemmAxis& rows, const GemmAxis& cols,
                                  const Accumulators<Config, T>& sums, const Conv2dEpilogue<T>& epilogue,
                                  T* destination, int group, int m0, int n0, int m_count) {
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
      device::store_vector(destination + offset, epilogue.template apply<false>(acc, k, offset));
    }
  }
}

// Σ term(value, channel of the tile, s) for the s in [0, kSums), over the tile's pixels that are there and
// each of the thread's channels, to storage.sum[kFirst + s].
template <int kFirst, int kSums, class Config, class T, class Storage, class Term>
CNNEXT_DEVICE void sum_pixels(const Accumulators<Config, T>& sums, const Conv2dEpilogue<T>& epilogue,
                              int pixels, int64_t k0, int channels, Storage& storage, const Term& term) {
  using C = compute_t<T>;
  const ThreadPlace<Config> place;
  const int thread = static_cast<int>(threadIdx.x), warp_m = thread / device::kWarpSize % Config::kWarpsM;
#pragma unroll
  for (int j = 0; j < Config::kThreadN; ++j) {
    const int channel = place.chunk_n(j / Config::kChunk) + j % Config::kChunk;
    const bool has_bias = epilogue.bias != nullptr && channel < channels;
    const C bias = has_bias ? device::to_compute(epilogue.bias[k0 + channel]) : C(0);
    C terms[kSums][Config::kThreadM];
#pragma unroll
    for (int i = 0; i < Config::kThreadM; ++i) {
      const bool exists = place.chunk_m(i / Config::kChunk) + i % Config::kChunk < pixels;
      const C value = device::to_compute(device::from_compute<T>(sums.sum(i, j) + bias));
#pragma unroll
      for (int s = 0; s < kSums; ++s) terms[s][i] = exists ? term(value, channel, s) : C(0);
    }
#pragma unroll
    for (int s = 0; s < kSums; ++s) {
      const MomentSum<T> sum = sum_of_lanes<T, 0, 3>(tree_sum(terms[s]));  // the 8 lanes along M
      if (thread % Config::kLanesM == 0) storage.sum[kFirst + s][warp_m][channel] = sum;
    }
  }
  __syncthreads();
}

template <class Config, class T>
CNNEXT_DEVICE void write_moments(const GatherProblem& problem, const Accumulators<Config, T>& sums,
                                 const Conv2dEpilogue<T>& epilogue, int group, int pixels, int n0) {
  using C = compute_t<T>;
  auto& storage = device::static_shared<MomentsStorage<T, Config::kWarpsM, Config::kTileN>>();
  const int64_t k0 = int64_t{group} * problem.out + n0;
  const int channels = problem.out - n0;
  sum_pixels<0, 1>(sums, epilogue, pixels, k0, channels, storage, [](C value, int, int) { return value; });
  storage.template find_shifts<Config::kThreads>(pixels);
  sum_pixels<1, 2>(sums, epilogue, pixels, k0, channels, storage, [&](C value, int channel, int s) {
    const C distance = value - storage.shift[channel];
    return s == 0 ? distance : distance * distance;
  });
  store_moments<Config::kThreads>(storage, epilogue, pixels, blockIdx.x, k0, channels);
}

// A prologue has more to keep, and so has the place of a pixel for each value that is copied: three warps of
// them do not share the registers of a scheduler.
template <class Config>
constexpr int least_blocks(Load source, bool normed) {
  return normed || source == Load::scalar_k ? smaller(Config::kBlocks, 4) : Config::kBlocks;
}

// kNormed: there is a prologue. A kernel of its own, or every main loop would hold its instructions.
template <class Config, class T, Load kSource, Load kWeight, bool kNormed>
__global__ void __launch_bounds__(Config::kThreads, least_blocks<Config>(kSource, kNormed))
    conv2d_gather_implicit_gemm_kernel(const GatherProblem problem, const T* source, const T* weight,
                                       const Conv2dPrologue<T> prologue, const Conv2dEpilogue<T> epilogue,
                                       T* destination) {
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
  const auto norms = []() -> auto& { return device::static_shared<Table<ChannelNorm<C>>>(); };
  const auto describe_taps = [&](int begin) {
    for (int kk = begin + thread; kk < begin + kChain; kk += Config::kThreads) {
      const TapPlace tap(problem, rows, cols, kk);
      device::store_vector(table.at(kk)->values, tap_entry(problem, rows, cols, tap, kk < gemm_k));
      if constexpr (kNormed) {
        if (kk < gemm_k) *norms().at(kk) = prologue.of(group * problem.in + tap.channel);
      }
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
  if constexpr (kNormed) source_copy.activate(norms().at(0));
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
      if constexpr (kNormed) source_copy.activate(norms().at(kk + Config::kTileK));
      source_copy.store(tiles.a[buffer ^ 1]);
      weight_copy.store(tiles.b[buffer ^ 1]);
      __syncthreads();
    }
    sums.end_chain();
  }

  if (epilogue.moments != nullptr) {
    write_moments(problem, sums, epilogue, group, smaller(m_count - m0, Config::kTileM), n0);
  }
  if (problem.store == StoreOrder::along_channels) {
    store_pixels<true>(problem, rows, cols, sums, epilogue, destination, group, m0, n0, m_count);
  } else if (problem.store == StoreOrder::along_pixels) {
    store_channels(problem, rows, cols, sums, epilogue, destination, group, m0, n0, m_count);
  } else {
    store_pixels<false>(problem, rows, cols, sums, epilogue, destination, group, m0, n0, m_count);
  }
}

}  // namespace cnnext::implicit_gemm
