// From accumulators to the destination image, for the forward pass and the input gradient.
//
// The lanes of a fragment hold pairs of columns of 8 rows: written as they are, they would fill half a sector
// in NHWC and scattered values in NCHW. So the tile goes through shared memory, a slice at a time, and out by
// rows of channels (NHWC) or of pixels (NCHW). A slice is 16 rows of each warp, or 16 columns, the other
// dimension whole.
#pragma once

#include "conv2d_epilogue.cuh"
#include "conv2d_tensor_core_compute.cuh"
#include "conv2d_tensor_core_load.cuh"

namespace cnnext::tensor_core {

inline constexpr int kStoreChannels = 4;  // what a thread stores at once in NHWC
inline constexpr int64_t kNoPixel = -1;

// Where the pixels of the tile's rows lie in the destination; channel 0.
template <class Config, class T>
CNNEXT_DEVICE void describe_destinations(int64_t* offsets, const GatherArguments<T>& args,
                                         const BlockPhase& v, const BlockPhase& h, int first_pixel) {
  const int row = threadIdx.x, pixel = first_pixel + row, in_image = v.count * h.count;
  if (row >= Config::kTileM) return;
  if (pixel >= args.images * in_image) {
    offsets[row] = kNoPixel;
    return;
  }
  const int image = pixel / in_image, i = (pixel - image * in_image) / h.count;
  const int j = pixel - image * in_image - i * h.count;
  offsets[row] = image * args.destination_strides.n +
                 (v.first + i * v.first_step) * args.destination_strides.h +
                 (h.first + j * h.first_step) * args.destination_strides.w;
}

// What the storing threads need besides the sums.
template <class T>
struct Destination {
  T* data;
  const int64_t* offsets;  // by row of the tile, in shared memory
  int64_t channel_stride;
  int64_t first_channel;  // of the tile, counted through all groups
  int channels;           // that the group has from there on
  bool by_vectors;
};

// Slice `i`: rows 16·i … 16·i + 15 of each warp, [kWarpsM · 16][kRowPitch].
template <class Config>
CNNEXT_DEVICE void write_row_slice(const Accumulators<Config>& d, float* slice, int i) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = warp / kWarpsN * 16 + lane / 4;
  const int column = warp % kWarpsN * Config::kWarpN + lane % 4 * 2;
#pragma unroll
  for (int j = 0; j < Config::kWarpN / 8; ++j) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const device::Vector<float, 2> pair{{d[i][j][2 * half], d[i][j][2 * half + 1]}};
      device::store_vector(slice + (row + half * 8) * Config::kRowPitch + column + j * 8, pair);
    }
  }
}

template <class Config>
using TileStatistics = StatisticsStorage<float, kThreads / 32, Config::kTileN>;

// One pixel's channels [column, column + 4) of the tile. Returns what was stored.
template <class T, class E>
CNNEXT_DEVICE device::Vector<T, kStoreChannels> store_channels(const Destination<T>& to, int64_t pixel,
                                                               int column,
                                                               const float (&sums)[kStoreChannels],
                                                               const E& epilogue) {
  const int64_t channel = to.first_channel + column, offset = pixel + channel;
  if (to.by_vectors) {
    const auto values = epilogue.template apply<true>(sums, channel, offset);
    device::store_vector(to.data + offset, values);
    return values;
  }
  device::Vector<T, kStoreChannels> values{};
#pragma unroll
  for (int e = 0; e < kStoreChannels; ++e) {
    if (column + e < to.channels) {
      values[e] = epilogue.apply(sums[e], channel + e, offset + e);
      to.data[offset + e] = values[e];
    }
  }
  return values;
}

template <class Config, class T, class E>
CNNEXT_DEVICE void store_rows(const Accumulators<Config>& d, float* slice, const Destination<T>& to,
                              const E& epilogue, TileStatistics<Config>& statistics) {
  constexpr int kThreadsOfRow = Config::kTileN / kStoreChannels, kRowsAtOnce = kThreads / kThreadsOfRow;
  const int column = threadIdx.x % kThreadsOfRow * kStoreChannels;
  ChannelSums<float, kStoreChannels> channel_sums;
#pragma unroll
  for (int i = 0; i < Config::kWarpM / 16; ++i) {
    write_row_slice<Config>(d, slice, i);
    __syncthreads();
#pragma unroll 1
    for (int row = threadIdx.x / kThreadsOfRow; row < kWarpsM * 16; row += kRowsAtOnce) {
      const int64_t pixel = to.offsets[row / 16 * Config::kWarpM + i * 16 + row % 16];
      if (pixel == kNoPixel || column >= to.channels) continue;
      const auto sums = device::load_vector<kStoreChannels>(slice + row * Config::kRowPitch + column);
      const auto values = store_channels(to, pixel, column, sums.values, epilogue);
      if constexpr (E::kHasStatistics) {
#pragma unroll
        for (int e = 0; e < kStoreChannels; ++e) {
          if (column + e >= to.channels) continue;
          channel_sums.add(e,
                           device::to_compute(values[e]) - epilogue.shift_of(to.first_channel + column + e));
        }
      }
    }
    __syncthreads();
  }
  if constexpr (E::kHasStatistics) {
    constexpr int kFirstBit = kThreadsOfRow == 32 ? 5 : kThreadsOfRow == 16 ? 4 : 3;
    channel_sums.template add_lanes<kFirstBit, 5>();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int e = 0; e < kStoreChannels; ++e) {
      if (lane >= kThreadsOfRow) continue;
      statistics.partial[warp][0][column + e] = channel_sums.sum[e];
      statistics.partial[warp][1][column + e] = channel_sums.square[e];
    }
  }
}

// Slice `j`: columns 16·j … 16·j + 15 of each warp, [kWarpsN · 16][kColumnPitch].
template <class Config>
CNNEXT_DEVICE void write_column_slice(const Accumulators<Config>& d, float* slice, int j) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = warp / kWarpsN * Config::kWarpM + lane / 4;
  const int column = warp % kWarpsN * 16 + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < Config::kWarpM / 16; ++i) {
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int at_column = column + e / 4 * 8 + e % 2, at_row = row + i * 16 + e / 2 % 2 * 8;
      slice[at_column * Config::kColumnPitch + at_row] = d[i][2 * j + e / 4][e % 4];
    }
  }
}

template <class Config, class T, class E>
CNNEXT_DEVICE void store_columns(const Accumulators<Config>& d, float* slice, const Destination<T>& to,
                                 const E& epilogue, TileStatistics<Config>& statistics) {
  constexpr int kColumnsAtOnce = kThreads / Config::kTileM;
  const int row = threadIdx.x % Config::kTileM, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int at_once = threadIdx.x / Config::kTileM;  // the column of those that is this thread's
  const int64_t pixel = to.offsets[row];
#pragma unroll
  for (int j = 0; j < Config::kWarpN / 16; ++j) {
    write_column_slice<Config>(d, slice, j);
    __syncthreads();
#pragma unroll 1
    for (int at = at_once; at < kWarpsN * 16; at += kColumnsAtOnce) {
      const int column = at / 16 * Config::kWarpN + j * 16 + at % 16;
      const int64_t channel = to.first_channel + column, offset = pixel + channel * to.channel_stride;
      const bool stored = pixel != kNoPixel && column < to.channels;
      ChannelSums<float, 1> channel_sums;
      if (stored) {
        const T value = epilogue.apply(slice[at * Config::kColumnPitch + row], channel, offset);
        to.data[offset] = value;
        if constexpr (E::kHasStatistics) {
          channel_sums.add(0, device::to_compute(value) - epilogue.shift_of(channel));
        }
      }
      if constexpr (E::kHasStatistics) {
        channel_sums.template add_lanes<0, 5>();
        // Where several columns are stored at once, a warp knows one, and gives 0 to the others.
        if (lane < kColumnsAtOnce) {
          const bool mine = lane == at_once;
          const int other = column - at_once + lane;
          statistics.partial[warp][0][other] = mine ? channel_sums.sum[0] : 0.0f;
          statistics.partial[warp][1][other] = mine ? channel_sums.square[0] : 0.0f;
        }
      }
    }
    __syncthreads();
  }
}

// Shared memory behind the main loop, where the stages were.
template <class Config>
struct StoreShared {
  alignas(16) char slice[Config::kSliceBytes];
  TileStatistics<Config> statistics;
};

// `offsets`: room for kTileM of them.
template <class Config, class T, class E>
CNNEXT_DEVICE void store_tile(const Accumulators<Config>& d, char* buffer, int64_t* offsets,
                              const GatherArguments<T>& args, const BlockPhase& v, const BlockPhase& h,
                              int group, int first_pixel, int first_column, const E& epilogue) {
  static_assert(sizeof(StoreShared<Config>) <= Config::buffer_bytes(false), "the stages make room for both");
  auto& shared = *reinterpret_cast<StoreShared<Config>*>(buffer);
  auto* slice = reinterpret_cast<float*>(shared.slice);
  describe_destinations<Config>(offsets, args, v, h, first_pixel);
  __syncthreads();
  const int channels = args.destination_channels - first_column;
  const Destination<T> to{args.destination,
                          offsets,
                          args.destination_strides.c,
                          static_cast<int64_t>(group) * args.destination_channels + first_column,
                          channels,
                          args.stores_vectors};
  if (args.destination_strides.c == 1) {
    store_rows<Config>(d, slice, to, epilogue, shared.statistics);
  } else {
    store_columns<Config>(d, slice, to, epilogue, shared.statistics);
  }
  if constexpr (E::kHasStatistics) {
    store_statistics<kThreads>(shared.statistics, epilogue, blockIdx.x / args.tiles_n, to.first_channel,
                               smaller(channels, Config::kTileN));
  }
}

}  // namespace cnnext::tensor_core
