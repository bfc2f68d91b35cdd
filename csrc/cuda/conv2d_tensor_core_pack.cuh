// Weights in the order in which the tensor-core kernels copy them to shared memory:
//   packed[group][phase][gemm_n / kTileN][gemm_k / kTileK][the chunks of a KContiguous tile]
// with gemm_k = tap · channels + channel, taps in the order of the phase, and zeros behind the last row and
// the last tap. So the main loop copies them from consecutive addresses, without a test, whatever their
// layout and number of channels. For tf32 they are rounded here, once.
#pragma once

#include "conv2d_tensor_core_geometry.h"
#include "conv2d_tensor_core_tile.cuh"
#include "device/mma.cuh"
#include "device/vec_load.cuh"

namespace cnnext::tensor_core {

template <class T>
struct PackArguments {
  const T* weight;
  T* packed;
  // Distances in `weight`; source and destination channels are those of conv2d_layout.cuh.
  int64_t group_stride, destination_stride, source_stride, r_stride, s_stride;
  AxisPhases vertical, horizontal;
  int source_channels, destination_channels;
  int tile_n, tiles_n, steps;
  int row_chunks;  // of a stage
  int64_t chunks;  // of all groups and phases
};

template <class T>
CNNEXT_DEVICE T packed_value(T value) {
  return value;
}
template <>
CNNEXT_DEVICE float packed_value<float>(float value) {
  return __uint_as_float(device::to_tf32(value));
}

// One thread, one chunk.
template <class T>
__global__ void conv2d_tensor_core_pack_kernel(PackArguments<T> args) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= args.chunks) return;
  const int in_tile = static_cast<int>(index % (args.tile_n * args.row_chunks));
  int64_t rest = index / (args.tile_n * args.row_chunks);
  const int step = static_cast<int>(rest % args.steps);
  rest /= args.steps;
  const int tile = static_cast<int>(rest % args.tiles_n);
  rest /= args.tiles_n;
  const int phases = args.vertical.count * args.horizontal.count;
  const int phase = static_cast<int>(rest % phases);
  const int64_t group = rest / phases;
  const AxisPhase& v = args.vertical.phase[phase / args.horizontal.count];
  const AxisPhase& h = args.horizontal.phase[phase % args.horizontal.count];

  const int row = in_tile / args.row_chunks, n = tile * args.tile_n + row;
  const int chunk = swizzled_chunk(row, in_tile % args.row_chunks, args.row_chunks);
  device::Vector<T, kPerChunk<T>> values;
#pragma unroll
  for (int e = 0; e < kPerChunk<T>; ++e) {
    const int k = (step * args.row_chunks + chunk) * kPerChunk<T> + e;
    const int tap = k / args.source_channels, channel = k - tap * args.source_channels;
    values[e] = T(0.0f);
    if (n < args.destination_channels && tap < v.taps * h.taps) {
      const int64_t r = v.tap + tap / h.taps * v.tap_step, s = h.tap + tap % h.taps * h.tap_step;
      values[e] =
          packed_value(args.weight[group * args.group_stride + n * args.destination_stride +
                                   channel * args.source_stride + r * args.r_stride + s * args.s_stride]);
    }
  }
  device::store_vector(args.packed + index * kPerChunk<T>, values);
}

}  // namespace cnnext::tensor_core
