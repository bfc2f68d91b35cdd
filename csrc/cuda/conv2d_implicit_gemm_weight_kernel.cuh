// conv2d's weight gradient by implicit GEMM on CUDA cores.
//   grad_weight[k, c, r, s] = Σ_pixel grad[pixel, k] · x[pixel · stride − pad + (r, s) · dil, c]
// M: output channel k, N: (c, r, s) for NCHW and (r, s, c) for NHWC, gemm_k: output pixel, over all images.
// Idea: the result is small and its sums are long, so the pixels are cut into splits, each a block of its own
// with sums of its own; a second kernel adds these up, always in the same order. What a pixel reads stands in
// a table, as in the gather.
// The bias gradient, Σ_pixel grad[pixel, k], is summed by the blocks of the first tile of N from what they
// have in shared memory anyway, with the rounding error carried along: it sums the most values of all.
#pragma once

#include "conv2d_backward_weight_sum.cuh"
#include "conv2d_implicit_gemm_window.cuh"
#include "device/shared_memory.cuh"

namespace cnnext::implicit_gemm {

// Σ over the tile's pixels of grad, for the output channel of each of the first kTileM threads.
template <class Config, class C>
CNNEXT_DEVICE void add_bias(const Tiles<Config, C>& tiles, int buffer, CarriedSum<C>& bias) {
  const int m = static_cast<int>(threadIdx.x);
  if (m >= Config::kTileM) return;
  C sum = 0;
#pragma unroll
  for (int kk = 0; kk < Config::kTileK; ++kk) sum += tiles.a[buffer][kk][m];
  bias.add(sum);
}

// One block's sums to its own place: rows of gemm_n values, by vectors where a row is whole vectors.
template <bool kVectors, class Config, class T>
CNNEXT_DEVICE void store_partial(const WeightProblem& problem, const Accumulators<Config, T>& sums,
                                 compute_t<T>* partial, int m0, int n0) {
  using C = compute_t<T>;
  constexpr int kChunk = Config::kChunk;
  const ThreadPlace<Config> place;
  const int gemm_n = problem.gemm_n();
#pragma unroll
  for (int i = 0; i < Config::kThreadM; ++i) {
    const int m = m0 + place.chunk_m(i / kChunk) + i % kChunk;
    if (m >= problem.group_k) continue;
    C* row = partial + int64_t{m} * gemm_n;
#pragma unroll
    for (int chunk = 0; chunk < Config::kThreadN / kChunk; ++chunk) {
      const int n = n0 + place.chunk_n(chunk);
      device::Vector<C, kChunk> values;
#pragma unroll
      for (int j = 0; j < kChunk; ++j) values[j] = sums.sum(i, chunk * kChunk + j);
      if constexpr (kVectors) {
        if (n < gemm_n) device::store_vector(row + n, values);
      } else {
#pragma unroll
        for (int j = 0; j < kChunk; ++j) {
          if (n + j < gemm_n) row[n + j] = values[j];
        }
      }
    }
  }
}

// partial [split][group][group_k][gemm_n], partial_bias [split][k]. kNormed: there is a prologue.
template <class Config, class T, Load kLoad, bool kNormed>
__global__ void __launch_bounds__(Config::kThreads, Config::kBlocks)
    conv2d_backward_weight_implicit_gemm_kernel(const WeightProblem problem, const T* grad, const T* x,
                                                const Conv2dPrologue<T> prologue, compute_t<T>* partial,
                                                compute_t<T>* partial_bias) {
  using C = compute_t<T>;
  const int group = static_cast<int>(blockIdx.z) % problem.groups;
  const int split = static_cast<int>(blockIdx.z) / problem.groups;
  const int m0 = static_cast<int>(blockIdx.x) * Config::kTileM,
            n0 = static_cast<int>(blockIdx.y) * Config::kTileN;
  const int begin = split * problem.pixels_per_split;
  const int end = smaller(begin + problem.pixels_per_split, problem.pixels);
  const int thread = static_cast<int>(threadIdx.x);

  auto& tiles = device::static_shared<Tiles<Config, C>>();
  auto& table = device::static_shared<Table<PixelEntry>>();
  const int gemm_k = end - begin;
  const auto describe_pixels = [&](int first) {
    for (int kk = first + thread; kk < first + kChain; kk += Config::kThreads) {
      *table.at(kk) = pixel_entry(problem, begin + kk, end);
    }
  };
  GradCopy<Config, T, kLoad> grad_copy(problem, grad, group, m0);
  WindowCopy<Config, T, kLoad> window_copy(problem, x, group, n0);
  const ThreadPlace<Config> place;
  Accumulators<Config, T> sums;
  CarriedSum<C> bias;

  using Norms = typename WindowCopy<Config, T, kLoad>::Norms;
  const auto norms = []() -> Norms& { return device::static_shared<Norms>(); };
  if constexpr (kNormed) norms().fill(problem, prologue, group, n0, Config::kThreads);
  describe_pixels(0);
  __syncthreads();
  grad_copy.load(table.at(0));
  window_copy.load(problem, table.at(0));
  if constexpr (kNormed) window_copy.activate(norms());
  grad_copy.store(tiles.a[0]);
  window_copy.store(tiles.b[0]);
  __syncthreads();
  int buffer = 0;
#pragma unroll 1
  for (int kk = 0; kk < gemm_k;) {
    describe_pixels(kk + kChain);
    const int chain_end = smaller(kk + kChain, gemm_k);
#pragma unroll 1
    for (; kk < chain_end; kk += Config::kTileK, buffer ^= 1) {
      grad_copy.load(table.at(kk + Config::kTileK));
      window_copy.load(problem, table.at(kk + Config::kTileK));
      sums.multiply(tiles, buffer, place);
      if (blockIdx.y == 0) add_bias<Config>(tiles, buffer, bias);
      if constexpr (kNormed) window_copy.activate(norms());
      grad_copy.store(tiles.a[buffer ^ 1]);
      window_copy.store(tiles.b[buffer ^ 1]);
      __syncthreads();
    }
    sums.end_chain();
  }

  const int64_t sums_of_group = int64_t{problem.group_k} * problem.gemm_n();
  C* own = partial + (int64_t{split} * problem.groups + group) * sums_of_group;
  if (problem.gemm_n() % Config::kChunk == 0) {
    store_partial<true>(problem, sums, own, m0, n0);
  } else {
    store_partial<false>(problem, sums, own, m0, n0);
  }
  if (blockIdx.y == 0 && thread < Config::kTileM && m0 + thread < problem.group_k) {
    const int64_t k = int64_t{group} * problem.group_k + m0 + thread;
    partial_bias[int64_t{split} * problem.groups * problem.group_k + k] = bias.total();
  }
}

}  // namespace cnnext::implicit_gemm
