// From accumulators to the destination image, for the forward pass and the input gradient.
//
// The lanes of a fragment hold pairs of columns of 8 rows: written as they are, they would fill half a sector
// in NHWC and scattered values in NCHW. So the tile goes through shared memory, a slice at a time, and out by
// rows of channels (NHWC) or of pixels (NCHW). A slice is 16 rows of each warp, or 16 columns, the other
// dimension whole.
#pragma once

#include "conv2d_moments.cuh"
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

// One pixel's channels [column, column + 4) of the tile.
template <class T>
CNNEXT_DEVICE void store_channels(const Destination<T>& to, int64_t pixel, int column,
                                  const float (&sums)[kStoreChannels], const Conv2dEpilogue<T>& epilogue) {
  const int64_t channel = to.first_channel + column, offset = pixel + channel;
  if (to.by_vectors) {
    device::store_vector(to.data + offset, epilogue.template apply<true>(sums, channel, offset));
    return;
  }
#pragma unroll
  for (int e = 0; e < kStoreChannels; ++e) {
    if (column + e < to.channels) to.data[offset + e] = epilogue.apply(sums[e], channel + e, offset + e);
  }
}

template <class Config, class T>
CNNEXT_DEVICE void store_rows(const Accumulators<Config>& d, float* slice, const Destination<T>& to,
                              const Conv2dEpilogue<T>& epilogue) {
  constexpr int kThreadsOfRow = Config::kTileN / kStoreChannels, kRowsAtOnce = kThreads / kThreadsOfRow;
  const int column = threadIdx.x % kThreadsOfRow * kStoreChannels;
#pragma unroll
  for (int i = 0; i < Config::kWarpM / 16; ++i) {
    write_row_slice<Config>(d, slice, i);
    __syncthreads();
#pragma unroll 1
    for (int row = threadIdx.x / kThreadsOfRow; row < kWarpsM * 16; row += kRowsAtOnce) {
      const int64_t pixel = to.offsets[row / 16 * Config::kWarpM + i * 16 + row % 16];
      if (pixel == kNoPixel || column >= to.channels) continue;
      const auto sums = device::load_vector<kStoreChannels>(slice + row * Config::kRowPitch + column);
      store_channels(to, pixel, column, sums.values, epilogue);
    }
    __syncthreads();
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

template <class Config, class T>
CNNEXT_DEVICE void store_columns(const Accumulators<Config>& d, float* slice, const Destination<T>& to,
                                 const Conv2dEpilogue<T>& epilogue) {
  constexpr int kColumnsAtOnce = kThreads / Config::kTileM;
  const int row = threadIdx.x % Config::kTileM;
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
      if (pixel == kNoPixel || column >= to.channels) continue;
      to.data[offset] = epilogue.apply(slice[at * Config::kColumnPitch + row], channel, offset);
    }
    __syncthreads();
  }
}

// Σ term(value, column, s) for the s in [0, kSums), over the tile's first `pixels` rows and each of the
// thread's columns, to storage.sum[kFirst + s].
template <int kFirst, int kSums, class Config, class T, class Storage, class Term>
CNNEXT_DEVICE void sum_pixels(const Accumulators<Config>& d, const Destination<T>& to,
                              const Conv2dEpilogue<T>& epilogue, int pixels, Storage& storage,
                              const Term& term) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int first_row = warp / kWarpsN * Config::kWarpM + lane / 4;
#pragma unroll
  for (int j = 0; j < Config::kWarpN / 8 * 2; ++j) {
    const int column = warp % kWarpsN * Config::kWarpN + j / 2 * 8 + lane % 4 * 2 + j % 2;
    const bool has_bias = epilogue.bias != nullptr && column < to.channels;
    const float bias = has_bias ? device::to_compute(epilogue.bias[to.first_channel + column]) : 0.0f;
    constexpr int kRows = Config::kWarpM / 16 * 2;
    float terms[kSums][kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const bool exists = first_row + i * 8 < pixels;
      const T stored = device::from_compute<T>(d[i / 2][j / 2][i % 2 * 2 + j % 2] + bias);
#pragma unroll
      for (int s = 0; s < kSums; ++s) {
        terms[s][i] = exists ? term(device::to_compute(stored), column, s) : 0.0f;
      }
    }
#pragma unroll
    for (int s = 0; s < kSums; ++s) {
      const MomentSum<T> sum = sum_of_lanes<T, 2, 5>(tree_sum(terms[s]));  // the 8 lanes of a column
      if (lane < 4) storage.sum[kFirst + s][warp / kWarpsN][column] = sum;
    }
  }
  __syncthreads();
}

template <class Config, class T, class Storage>
CNNEXT_DEVICE void write_moments(const Accumulators<Config>& d, const Destination<T>& to,
                                 const Conv2dEpilogue<T>& epilogue, int pixels, int64_t pixel_block,
                                 Storage& storage) {
  sum_pixels<0, 1, Config>(d, to, epilogue, pixels, storage, [](float value, int, int) { return value; });
  storage.template find_shifts<kThreads>(pixels);
  sum_pixels<1, 2, Config>(d, to, epilogue, pixels, storage, [&](float value, int column, int s) {
    const float distance = value - storage.shift[column];
    return s == 0 ? distance : distance * distance;
  });
  store_moments<kThreads>(storage, epilogue, pixels, pixel_block, to.first_channel, to.channels);
}

// Shared memory behind the main loop, where the stages were.
template <class Config, class T>
struct StoreShared {
  alignas(16) char slice[Config::kSliceBytes];
  MomentsStorage<T, kWarpsM, Config::kTileN> moments;
};

// `offsets`: room for kTileM of them.
template <class Config, class T>
CNNEXT_DEVICE void store_tile(const Accumulators<Config>& d, char* buffer, int64_t* offsets,
                              const GatherArguments<T>& args, const BlockPhase& v, const BlockPhase& h,
                              int group, int first_pixel, int first_column,
                              const Conv2dEpilogue<T>& epilogue) {
  static_assert(sizeof(StoreShared<Config, T>) <= Config::buffer_bytes(false),
                "the stages make room for both");
  auto& shared = *reinterpret_cast<StoreShared<Config, T>*>(buffer);
  auto* slice = reinterpret_cast<float*>(shared.slice);
  describe_destinations<Config>(offsets, args, v, h, first_pixel);
  __syncthreads();
  const Destination<T> to{args.destination,
                          offsets,
                          args.destination_strides.c,
                          static_cast<int64_t>(group) * args.destination_channels + first_column,
                          args.destination_channels - first_column,
                          args.stores_vectors};
  if (epilogue.moments != nullptr) {
    const int pixels = args.images * v.count * h.count - first_pixel;
    write_moments<Config>(d, to, epilogue, smaller(pixels, Config::kTileM), blockIdx.x / args.tiles_n,
                          shared.moments);
  }
  if (args.destination_strides.c == 1) {
    store_rows<Config>(d, slice, to, epilogue);
  } else {
    store_columns<Config>(d, slice, to, epilogue);
  }
}

}  // namespace cnnext::tensor_core
