// Weights in the order in which the tensor-core kernels copy them to shared memory:
//   packed[group][phase][gemm_n / kTileN][gemm_k / kTileK][the chunks of a KContiguous tile]
// with gemm_k = tap · channels + channel, taps in the order of the phase, and zeros behind the last row and
// the last tap. So the main loop copies them from consecutive addresses, without a test, whatever their
// layout and number of channels. For tf32 they are rounded here, once.
// Idea: a block takes some rows and some channels with all of their taps, which are runs of the weights in
// either layout. It reads them in the order of the weights and writes them in that of the tiles; shared
// memory turns them around.
// Limits: channels that fill no whole chunks cannot be cut, and are read one by one where they do not fit.
#pragma once

#include "conv2d_tensor_core_geometry.h"
#include "conv2d_tensor_core_tile.cuh"
#include "device/mma.cuh"
#include "device/shared_memory.cuh"
#include "device/vec_load.cuh"

namespace cnnext::tensor_core {

inline constexpr int kPackThreads = 256;
inline constexpr int kPackBytes = 24 * 1024;  // of shared memory: two blocks on an sm_75

// What a block takes, and where it lies in shared memory: [tap][row][channel].
struct PackTile {
  int rows, channels;  // rows: a power of 2 that divides every kTileN; channels: whole chunks, or all
  int row_pitch, tap_pitch;
  bool fits;
};

// Pitches are one chunk longer than their contents, so that neighbours in the weights meet in few banks.
inline PackTile pack_tile(int per_chunk, int taps, int channels) {
  const int values = kPackBytes * per_chunk / kChunkBytes;
  const bool by_chunks = channels % per_chunk == 0;
  PackTile tile{taps == 1 ? 32 : 16, by_chunks ? smaller(channels, 32) : channels, 0, 0, false};
  const auto place = [&] {
    tile.row_pitch = round_up(tile.channels, per_chunk) + per_chunk;
    tile.tap_pitch = tile.rows * tile.row_pitch + per_chunk;
    return tile.fits = taps * tile.tap_pitch <= values;
  };
  while (!place() && tile.rows > 1) tile.rows /= 2;
  return tile;
}

template <class T>
struct PackArguments {
  const T* weight;
  T* packed;
  // Distances in `weight`; source and destination channels are those of conv2d_layout.cuh.
  int64_t group_stride, destination_stride, source_stride, tap_stride;
  int taps, taps_s;  // of the weight: all, and those of a row
  AxisPhases vertical, horizontal;
  int source_channels, destination_channels;
  int tile_n, tiles_n, steps;
  int row_chunks;  // of a stage
  PackTile tile;
};

template <class T>
struct PackShared {
  alignas(kChunkBytes) T values[kPackBytes / sizeof(T)];
};

template <class T>
CNNEXT_DEVICE T packed_value(T value) {
  return value;
}
template <>
CNNEXT_DEVICE float packed_value<float>(float value) {
  return __uint_as_float(device::to_tf32(value));
}

// What of the weights a block takes.
template <class T>
struct PackBlock {
  const PackArguments<T>& args;
  int group, n, channel;    // the first ones
  int live_rows, channels;  // that exist
  const T* weight;          // of the first ones
  PackShared<T>& shared;

  CNNEXT_DEVICE PackBlock(const PackArguments<T>& args, PackShared<T>& shared)
      : args(args),
        group(blockIdx.z),
        n(blockIdx.x * args.tile.rows),
        channel(blockIdx.y * args.tile.channels),
        live_rows(smaller(args.tile.rows, args.destination_channels - n)),
        channels(smaller(args.tile.channels, args.source_channels - channel)),
        weight(args.weight + group * args.group_stride + n * args.destination_stride +
               channel * args.source_stride),
        shared(shared) {}

  CNNEXT_DEVICE T& staged(int row, int c, int tap) const {
    return shared.values[tap * args.tile.tap_pitch + row * args.tile.row_pitch + c];
  }
  CNNEXT_DEVICE T from_weight(int row, int c, int tap) const {
    return weight[row * args.destination_stride + c * args.source_stride + tap * args.tap_stride];
  }

  // In the order of the weights: taps are next to one another, or channels (of the source or destination).
  CNNEXT_DEVICE void read() const {
    const bool taps_first = args.tap_stride == 1, by_source = args.source_stride < args.destination_stride;
    const int inner = by_source ? channels : live_rows, outer = by_source ? live_rows : channels;
    const int first = taps_first ? args.taps : inner, second = taps_first ? inner : args.taps;
    for (int i = threadIdx.x; i < outer * inner * args.taps; i += kPackThreads) {
      const int at_first = i % first, at_second = i / first % second, at_outer = i / (first * second);
      const int tap = taps_first ? at_first : at_second, at_inner = taps_first ? at_second : at_first;
      const int row = by_source ? at_outer : at_inner, c = by_source ? at_inner : at_outer;
      staged(row, c, tap) = from_weight(row, c, tap);
    }
  }

  // The values [k, k + kPerChunk) of a row, in the order of the phase.
  CNNEXT_DEVICE device::Vector<T, kPerChunk<T>> chunk_of(int phase, int row, int k) const {
    const AxisPhase& v = args.vertical.phase[phase / args.horizontal.count];
    const AxisPhase& h = args.horizontal.phase[phase % args.horizontal.count];
    device::Vector<T, kPerChunk<T>> values;
    int tap = k / args.source_channels, c = k - tap * args.source_channels - channel, from = 0;
    const bool of_one_tap = args.tile.fits && args.source_channels % kPerChunk<T> == 0;
#pragma unroll
    for (int e = 0; e < kPerChunk<T>; ++e) {
      values[e] = T(0.0f);
      const bool exists = row < live_rows && tap < v.taps * h.taps;
      if (exists && (e == 0 || c == 0)) {
        const int r = static_cast<int>(v.tap + tap / h.taps * v.tap_step);
        from = r * args.taps_s + static_cast<int>(h.tap + tap % h.taps * h.tap_step);
      }
      if (exists && of_one_tap) return device::load_vector<kPerChunk<T>>(&staged(row, c, from));
      if (exists) values[e] = args.tile.fits ? staged(row, c, from) : from_weight(row, c, from);
      if (++c == args.source_channels) c = 0, ++tap;
    }
    return values;
  }

  CNNEXT_DEVICE void write(int phase, int row, int k) const {
    auto values = chunk_of(phase, row, k);
#pragma unroll
    for (int e = 0; e < kPerChunk<T>; ++e) values[e] = packed_value(values[e]);
    const int tile = (n + row) / args.tile_n, in_tile = (n + row) % args.tile_n;
    const int step = k / kPerChunk<T> / args.row_chunks, chunk = k / kPerChunk<T> % args.row_chunks;
    const int64_t phases = args.vertical.count * args.horizontal.count;
    const int64_t tiles = (group * phases + phase) * args.tiles_n + tile;
    const int64_t place = ((tiles * args.steps + step) * args.tile_n + in_tile) * args.row_chunks +
                          swizzled_chunk(in_tile, chunk, args.row_chunks);
    device::store_vector(args.packed + place * kPerChunk<T>, values);
  }

  // A phase's values of the block: of each tap its channels; if these are all, one run, with what is behind
  // the last tap. Else the block of the first channels writes that.
  CNNEXT_DEVICE void write_phase(int phase) const {
    const int64_t taps = args.vertical.phase[phase / args.horizontal.count].taps *
                         args.horizontal.phase[phase % args.horizontal.count].taps;
    const int used = static_cast<int>(taps) * args.source_channels;
    const int end = args.steps * args.row_chunks * kPerChunk<T>;
    const bool all = channels == args.source_channels;
    const int chunks = (all ? end : channels) / kPerChunk<T>, runs = all ? 1 : static_cast<int>(taps);
    for (int i = threadIdx.x; i < runs * args.tile.rows * chunks; i += kPackThreads) {
      const int chunk = i % chunks, row = i / chunks % args.tile.rows, run = i / (chunks * args.tile.rows);
      write(phase, row, run * args.source_channels + channel + chunk * kPerChunk<T>);
    }
    const int behind = all || channel > 0 ? 0 : (end - used) / kPerChunk<T>;
    for (int i = threadIdx.x; i < args.tile.rows * behind; i += kPackThreads) {
      write(phase, i / behind, used + i % behind * kPerChunk<T>);
    }
  }
};

// Block (rows, channels, group).
template <class T>
__global__ void __launch_bounds__(kPackThreads) conv2d_tensor_core_pack_kernel(PackArguments<T> args) {
  const PackBlock<T> block(args, device::static_shared<PackShared<T>>());
  if (args.tile.fits) block.read();
  __syncthreads();
  for (int phase = 0; phase < args.vertical.count * args.horizontal.count; ++phase) block.write_phase(phase);
}

}  // namespace cnnext::tensor_core
