// F(2 × 2, 3 × 3) in one kernel: a block keeps the products of all 16 positions of 32 tiles by 64 output
// channels in registers, so that neither V nor M of conv2d_winograd_kernel.cuh goes through global memory.
// Idea: each of the 8 warps multiplies 2 positions; a thread transforms one input tile of one channel for all
// of them, loaded while the channels before are multiplied. At the end the positions meet in shared memory,
// 16 channels at a time.
// Limits: 82 KiB of shared memory a block; the 36 positions of F(4 × 4) do not fit the registers.
// Source: see conv2d_winograd_transform.cuh.
#pragma once

#include "conv2d_winograd_kernel.cuh"
#include "device/cp_async.cuh"

namespace cnnext::winograd {

struct FusedShared {
  float u[2][16][FusedConfig::kTileC][FusedConfig::kTileK];
  float v[16][FusedConfig::kTileC][FusedConfig::kPitch];
};
// In the place of u: float4 of 4 tiles, 4 channels apart, lie in different banks.
using FusedExchange = float[16][FusedConfig::kExchangedK][FusedConfig::kPitch];
static_assert(sizeof(FusedShared) == FusedConfig::kSharedBytes, "as the launch asks for");
static_assert(sizeof(FusedExchange) <= sizeof(FusedShared::u), "u makes room for the exchange");

// One input tile of one channel, the next one 8 channels further.
class FusedTile {
 public:
  CNNEXT_DEVICE FusedTile(const Problem& problem, const float* source, const Conv2dPrologue<float>& prologue,
                          const TilePlace& place, int c)
      : prologue_(prologue),
        channel_(c),
        strides_h_(static_cast<int>(problem.source_strides.h)),
        strides_w_(static_cast<int>(problem.source_strides.w)),
        step_(FusedConfig::kTileC * problem.source_strides.c),
        channels_(problem.source_channels - c) {
    const int h = place.row - problem.pad_h, w = place.column - problem.pad_w;
    const ImageStrides& strides = problem.source_strides;
    from_ = source + place.image * strides.n + c * strides.c + h * strides.h + w * strides.w;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int at_h = h + i / 4, at_w = w + i % 4;
      const bool inside = at_h >= 0 && at_h < problem.source_h && at_w >= 0 && at_w < problem.source_w;
      inside_ |= (inside && place.exists ? 1u : 0u) << i;
    }
  }
  CNNEXT_DEVICE void load(float (&d)[4][4]) {
    const uint32_t inside = channels_ > 0 ? inside_ : 0;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      d[i / 4][i % 4] = 0;
      if ((inside >> i & 1) != 0) d[i / 4][i % 4] = from_[i / 4 * strides_h_ + i % 4 * strides_w_];
    }
    from_ += step_;
    channels_ -= FusedConfig::kTileC;
  }
  // Of the channel that was loaded last.
  CNNEXT_DEVICE void activate(float (&d)[4][4]) {
    if (!prologue_.exists()) return;
    const bool exists = channels_ + FusedConfig::kTileC > 0;
    const ChannelNorm<float> norm = exists ? prologue_.of(channel_) : ChannelNorm<float>{};
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      if (exists && (inside_ >> i & 1) != 0) d[i / 4][i % 4] = norm.activated(d[i / 4][i % 4]);
    }
    channel_ += FusedConfig::kTileC;
  }

 private:
  const Conv2dPrologue<float>& prologue_;
  int channel_;
  const float* from_;
  uint32_t inside_ = 0;
  int strides_h_, strides_w_;
  int64_t step_;
  int channels_;  // left
};

// U of 8 channels, all positions: the threads copy the rows of two positions at once.
CNNEXT_DEVICE void fetch_weights(FusedShared& shared, int stage, const float* u, const Problem& problem,
                                 int c, int k) {
  constexpr int kVectors = FusedConfig::kTileK / 4;
  static_assert(FusedConfig::kThreads / kVectors == 2 * FusedConfig::kTileC, "two positions at once");
  const int vector = threadIdx.x % kVectors * 4, row = threadIdx.x / kVectors % FusedConfig::kTileC;
  const int upper = threadIdx.x / kVectors / FusedConfig::kTileC;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int position = 2 * i + upper;
    const int64_t from = (int64_t{position} * problem.padded_c + c + row) * problem.padded_k + k + vector;
    device::cp_async<16>(&shared.u[stage][position][row][vector], u + from, true);
  }
}

// Tiles by lane % 4, channels by lane / 4; a thread has two runs of 4 in each, 16 tiles and 32 channels
// apart.
CNNEXT_DEVICE void multiply_positions(float (&sum)[2][8][8], const FusedShared& shared, int stage) {
  const int warp = threadIdx.x / 32, t = threadIdx.x % 4 * 4, k = threadIdx.x % 32 / 4 * 4;
#pragma unroll
  for (int p = 0; p < 2; ++p) {
#pragma unroll
    for (int c = 0; c < FusedConfig::kTileC; ++c) {
      const float* v = &shared.v[2 * warp + p][c][t];
      const float* u = &shared.u[stage][2 * warp + p][c][k];
      const device::Vector<float, 4> vs[2] = {device::load_vector<4>(v), device::load_vector<4>(v + 16)};
      const device::Vector<float, 4> us[2] = {device::load_vector<4>(u), device::load_vector<4>(u + 32)};
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) sum[p][i][j] += vs[i / 4][i % 4] * us[j / 4][j % 4];
      }
    }
  }
}

// The products of channels [16·part, 16·part + 16) of the block, from the lanes that hold them.
CNNEXT_DEVICE void write_exchange(const float (&sum)[2][8][8], FusedExchange& exchange, int part) {
  const int warp = threadIdx.x / 32, t = threadIdx.x % 4 * 4, group = threadIdx.x % 32 / 4;
  if (group / 4 != part % 2) return;
#pragma unroll
  for (int p = 0; p < 2; ++p) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float* row = exchange[2 * warp + p][group % 4 * 4 + j];
#pragma unroll
      for (int run = 0; run < 2; ++run) {
        device::Vector<float, 4> values;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          values[i] = part < 2 ? sum[p][run * 4 + i][j] : sum[p][run * 4 + i][4 + j];
        }
        device::store_vector(row + t + run * 16, values);
      }
    }
  }
}

// One output tile of one channel.
CNNEXT_DEVICE void store_output(const Problem& problem, const FusedExchange& exchange, int t, int part_k,
                                int64_t first_tile, int64_t k, float* destination,
                                const Conv2dEpilogue<float>& epilogue) {
  using T = Transform<2>;
  float products[4][4], y[2][2];
#pragma unroll
  for (int position = 0; position < 16; ++position) {
    products[position / 4][position % 4] = exchange[position][part_k][t];
  }
  transform_output<T>(products, y);
  const TilePlace place = place_of_tile<T>(problem, first_tile + t);
  if (!place.exists || k >= problem.destination_channels) return;
  const ImageStrides& strides = problem.destination_strides;
  const int64_t first =
      place.image * strides.n + k * strides.c + place.row * strides.h + place.column * strides.w;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (place.row + i / 2 >= problem.destination_h || place.column + i % 2 >= problem.destination_w) continue;
    const int64_t offset = first + i / 2 * strides.h + i % 2 * strides.w;
    destination[offset] = epilogue.apply(y[i / 2][i % 2], k, offset);
  }
}

// Block (32 tiles, 64 channels).
__global__ void __launch_bounds__(FusedConfig::kThreads, 1)
    conv2d_winograd_2x3_fused_kernel(const __grid_constant__ Problem problem, const float* source,
                                     const __grid_constant__ Conv2dPrologue<float> prologue, const float* u,
                                     float* destination,
                                     const __grid_constant__ Conv2dEpilogue<float> epilogue) {
  using T = Transform<2>;
  auto& shared = device::dynamic_shared<FusedShared>();
  const bool channels_last = problem.source_strides.c == 1;
  const int tile_c = channels_last ? threadIdx.x % 8 : threadIdx.x / 32;
  const int tile_t = channels_last ? threadIdx.x / 8 : threadIdx.x % 32;
  const int64_t first_tile = int64_t{blockIdx.x} * FusedConfig::kTileT;
  const int first_k = blockIdx.y * FusedConfig::kTileK;
  FusedTile tile(problem, source, prologue, place_of_tile<T>(problem, first_tile + tile_t), tile_c);
  float d[4][4], sum[2][8][8] = {};
  fetch_weights(shared, 0, u, problem, 0, first_k);
  device::cp_async_commit();
  tile.load(d);
  int stage = 0;
#pragma unroll 1
  for (int c = 0; c < problem.padded_c; c += FusedConfig::kTileC, stage ^= 1) {
    tile.activate(d);
    transform_input<T>(d);
    __syncthreads();  // the channels before have been multiplied
#pragma unroll
    for (int position = 0; position < 16; ++position) {
      shared.v[position][tile_c][tile_t] = d[position / 4][position % 4];
    }
    device::cp_async_wait<0>();
    __syncthreads();
    const int next = c + FusedConfig::kTileC;
    if (next < problem.padded_c) {
      fetch_weights(shared, stage ^ 1, u, problem, next, first_k);
      tile.load(d);
    }
    device::cp_async_commit();
    multiply_positions(sum, shared, stage);
  }
  device::cp_async_wait<0>();

  auto& exchange = *reinterpret_cast<FusedExchange*>(&shared.u);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll 1
  for (int part = 0; part < FusedConfig::kTileK / FusedConfig::kExchangedK; ++part) {
    __syncthreads();
    write_exchange(sum, exchange, part);
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; ++half) {  // lanes: 32 tiles, or 8 channels of 4 tiles, a sector each
      const int t = channels_last ? warp * 4 + lane / 8 : lane;
      const int k = channels_last ? half * 8 + lane % 8 : half * 8 + warp;
      store_output(problem, exchange, t, k, first_tile, first_k + part * FusedConfig::kExchangedK + k,
                   destination, epilogue);
    }
  }
}

}  // namespace cnnext::winograd
