// conv2d by Winograd's algorithm, F(2 × 2, 3 × 3) and F(4 × 4, 3 × 3): 3 × 3 kernels, stride 1, fp32.
//   U[position][c][k] = (G g Gᵀ)[position] of the weight of k and c      weight kernel
//   V[position][c][t] = (Bᵀ d B)[position] of channel c of input tile t  input kernel
//   M[position][k][t] = Σ_c U[position][c][k] · V[position][c][t]        conv2d_winograd_gemm_kernel.cuh
//   output tile t of channel k = Aᵀ M[·][k][t] A, then the epilogue      output kernel
// Layouts: images NCHW or NHWC; U, V and M in whole tiles of the GEMM, zero where there is nothing.
// The input gradient is the same with the weight turned by 180°, its channels exchanged and a padding of
// 2 − pad.
// Idea: tiles are worked on in chunks small enough that V and M never leave the L2 cache.
// Limits: the sums of positions cancel, so errors are larger than a direct sum's, about 4 times for F(4 × 4);
// a NaN or an infinity of the input spreads over the output tiles that its tiles make.
// Source: see conv2d_winograd_transform.cuh.
#pragma once

#include "conv2d_epilogue.cuh"
#include "conv2d_layout.cuh"
#include "conv2d_prologue.cuh"
#include "conv2d_winograd_config.h"
#include "conv2d_winograd_transform.cuh"
#include "device/shared_memory.cuh"

namespace cnnext::winograd {

// Both passes: `source` is the input, or the gradient of the output.
struct Problem {
  int images, source_h, source_w, source_channels;
  int destination_h, destination_w, destination_channels;
  int pad_h, pad_w;                  // may be negative
  int tile_rows, tile_columns;       // of an image
  int padded_c, padded_k, padded_t;  // of V, U and M; t of a chunk
  ImageStrides source_strides, destination_strides;
  int64_t weight_source_stride, weight_destination_stride, weight_r_stride, weight_s_stride;
  bool turned;  // the weight, by 180°
};

struct TilePlace {
  int image, row, column;  // of its first pixel in the destination
  bool exists;
};

template <class T>
CNNEXT_DEVICE TilePlace place_of_tile(const Problem& problem, int64_t tile) {
  const int64_t per_image = int64_t{problem.tile_rows} * problem.tile_columns;
  const int64_t image = tile / per_image;
  const int rest = static_cast<int>(tile - image * per_image);
  const int row = rest / problem.tile_columns;
  return {static_cast<int>(image), row * T::kOutput, (rest - row * problem.tile_columns) * T::kOutput,
          image < problem.images};
}

// A thread of the transforms: in NCHW lanes are tiles side by side, in NHWC channels side by side.
struct TransformThread {
  int channel, tile;  // within the block's

  CNNEXT_DEVICE explicit TransformThread(bool channels_last)
      : channel(channels_last ? threadIdx.x % kBlockChannels : threadIdx.x / kBlockTiles),
        tile(channels_last ? threadIdx.x / kBlockChannels : threadIdx.x % kBlockTiles) {}
};

// One thread for each (source channel, destination channel) of U.
template <class T>
__global__ void __launch_bounds__(kTransformThreads)
    conv2d_winograd_weight_kernel(const __grid_constant__ Problem problem, const float* weight, float* u) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kTransformThreads + threadIdx.x;
  const int64_t count = int64_t{problem.padded_c} * problem.padded_k;
  if (index >= count) return;
  const int c = static_cast<int>(index / problem.padded_k), k = static_cast<int>(index % problem.padded_k);
  float g[3][3] = {}, transformed[T::kTile][T::kTile];
  if (c < problem.source_channels && k < problem.destination_channels) {
    const float* from = weight + c * problem.weight_source_stride + k * problem.weight_destination_stride;
#pragma unroll
    for (int r = 0; r < 3; ++r) {
#pragma unroll
      for (int s = 0; s < 3; ++s) {
        const int tap_r = problem.turned ? 2 - r : r, tap_s = problem.turned ? 2 - s : s;
        g[r][s] = from[tap_r * problem.weight_r_stride + tap_s * problem.weight_s_stride];
      }
    }
  }
  transform_weight<T>(g, transformed);
#pragma unroll
  for (int position = 0; position < T::kTile * T::kTile; ++position) {
    u[position * count + index] = transformed[position / T::kTile][position % T::kTile];
  }
}

// The exchange between lanes of channels and lanes of tiles, a row of a tile's values at a time. With 4
// values of padding 8 tiles of 4 channels lie in 32 banks, as 32 channels of a tile do.
template <int kRow>
struct ExchangeShared {
  float values[kRow][kBlockTiles][kBlockChannels + 4];
};

// The input tile of this thread; zero outside the image.
template <class T>
CNNEXT_DEVICE void load_tile(float (&d)[T::kTile][T::kTile], const Problem& problem, const float* source,
                             const Conv2dPrologue<float>& prologue, const TilePlace& place, int c) {
  const bool exists = place.exists && c < problem.source_channels;
  const int first_h = place.row - problem.pad_h, first_w = place.column - problem.pad_w;
  const ImageStrides& strides = problem.source_strides;
  const float* from = source + place.image * strides.n + c * strides.c;
  ChannelNorm<float> norm{};
  if (prologue.exists() && exists) norm = prologue.of(c);
#pragma unroll
  for (int i = 0; i < T::kTile; ++i) {
#pragma unroll
    for (int j = 0; j < T::kTile; ++j) {
      const int h = first_h + i, w = first_w + j;
      const bool inside = exists && h >= 0 && h < problem.source_h && w >= 0 && w < problem.source_w;
      d[i][j] = 0;
      if (inside) d[i][j] = from[h * strides.h + w * strides.w];
      if (inside && prologue.exists()) d[i][j] = norm.activated(d[i][j]);
    }
  }
}

// Block (8 tiles of the chunk, 32 channels).
template <class T>
__global__ void __launch_bounds__(kTransformThreads)
    conv2d_winograd_input_kernel(const __grid_constant__ Problem problem, const float* source,
                                 Conv2dPrologue<float> prologue, float* v, int64_t first_tile) {
  auto& shared = device::static_shared<ExchangeShared<T::kTile>>();
  const bool channels_last = problem.source_strides.c == 1;
  const TransformThread from(channels_last), to(false);
  const int first_c = blockIdx.y * kBlockChannels, first_t = blockIdx.x * kBlockTiles;
  const TilePlace place = place_of_tile<T>(problem, first_tile + first_t + from.tile);
  float d[T::kTile][T::kTile];
  load_tile<T>(d, problem, source, prologue, place, first_c + from.channel);
  transform_input<T>(d);
  const int64_t position_stride = int64_t{problem.padded_c} * problem.padded_t;
  float* out = v + int64_t{first_c + to.channel} * problem.padded_t + first_t + to.tile;
  const bool is_padding = first_c + to.channel >= problem.padded_c;
#pragma unroll
  for (int i = 0; i < T::kTile; ++i) {
    if (channels_last) {
#pragma unroll
      for (int j = 0; j < T::kTile; ++j) shared.values[j][from.tile][from.channel] = d[i][j];
      __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < T::kTile; ++j) {
      const float value = channels_last ? shared.values[j][to.tile][to.channel] : d[i][j];
      if (!is_padding) out[(i * T::kTile + j) * position_stride] = value;
    }
    if (channels_last) __syncthreads();
  }
}

// Block (8 tiles of the chunk, 32 channels).
// One block at least: without that word ptxas keeps room for five on sm_120, and spills.
template <class T>
__global__ void __launch_bounds__(kTransformThreads, 1)
    conv2d_winograd_output_kernel(const __grid_constant__ Problem problem, const float* m, float* destination,
                                  int64_t first_tile,
                                  const __grid_constant__ Conv2dEpilogue<float> epilogue) {
  auto& shared = device::static_shared<ExchangeShared<T::kOutput>>();
  const bool channels_last = problem.destination_strides.c == 1;
  const TransformThread from(false), to(channels_last);
  const int first_k = blockIdx.y * kBlockChannels, first_t = blockIdx.x * kBlockTiles;
  const int64_t position_stride = int64_t{problem.padded_k} * problem.padded_t;
  const float* in = m + int64_t{first_k + from.channel} * problem.padded_t + first_t + from.tile;
  float products[T::kTile][T::kTile], y[T::kOutput][T::kOutput];
#pragma unroll
  for (int position = 0; position < T::kTile * T::kTile; ++position) {
    products[position / T::kTile][position % T::kTile] = in[position * position_stride];
  }
  transform_output<T>(products, y);
  const TilePlace place = place_of_tile<T>(problem, first_tile + first_t + to.tile);
  const int64_t k = first_k + to.channel;
  const ImageStrides& strides = problem.destination_strides;
  const int64_t first =
      place.image * strides.n + k * strides.c + place.row * strides.h + place.column * strides.w;
  const bool exists = place.exists && k < problem.destination_channels;
#pragma unroll
  for (int i = 0; i < T::kOutput; ++i) {
    if (channels_last) {
#pragma unroll
      for (int j = 0; j < T::kOutput; ++j) shared.values[j][from.tile][from.channel] = y[i][j];
      __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < T::kOutput; ++j) {
      const float value = channels_last ? shared.values[j][to.tile][to.channel] : y[i][j];
      const bool inside = place.row + i < problem.destination_h && place.column + j < problem.destination_w;
      if (exists && inside) {
        const int64_t offset = first + i * strides.h + j * strides.w;
        destination[offset] = epilogue.apply(value, k, offset);
      }
    }
    if (channels_last) __syncthreads();
  }
}

}  // namespace cnnext::winograd
