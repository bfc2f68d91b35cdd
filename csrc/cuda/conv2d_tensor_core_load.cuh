// Filling a stage for the forward pass and the input gradient: A, gathered from the source image,
// [kTileM][kTileK] pixels by (tap, channel), and B, weights that lie in memory as they will in shared memory.
//
// Idea: the address of an element of A is that of its pixel plus that of its (tap, channel), and whether it
// lies inside the image is a question of two bits, one for the row of taps and one for the column. So each
// pixel has an offset and a word of bits in registers, computed once; each step looks its tap up in a table
// of shared memory; what is left for an element is one addition and one test.
#pragma once

#include "conv2d_tensor_core_copy.cuh"
#include "conv2d_tensor_core_geometry.h"
#include "conv2d_tensor_core_tile.cuh"

namespace cnnext::tensor_core {

// The kernel's view of both passes, "source" and "destination" as in conv2d_layout.cuh.
template <class T>
struct GatherArguments {
  const T* source;
  const T* packed_weight;  // see conv2d_tensor_core_pack.cuh
  T* destination;
  ImageStrides source_strides, destination_strides;
  AxisPhases vertical, horizontal;
  int images, source_h, source_w;
  int source_channels, destination_channels;  // of a group
  int tiles_n, packed_steps;
  Divisor channels;     // source_channels
  bool stores_vectors;  // NHWC, and every chunk of channels of the destination is aligned
};

// A block's phase: 32 bits are enough for what is inside one image.
struct BlockPhase {
  int count, first, first_step, step, base, increment, taps;

  CNNEXT_DEVICE explicit BlockPhase(const AxisPhase& p)
      : count(p.count),
        first(p.first),
        first_step(p.first_step),
        step(p.step),
        base(p.base),
        increment(p.increment),
        taps(p.taps) {}
};

struct TapEntry {
  int offset;     // in elements of the source
  uint32_t bits;  // the row of taps in the lower bits, the column behind; bit 31: no tap
};
struct PixelEntry {
  int offset;        // of its tap 0, which may lie outside, from the image of the block's first pixel
  uint32_t missing;  // the bits of rows and columns of taps outside the image, and bit 31
};
inline constexpr uint32_t kNoTap = 1u << 31;

// With `kLessGemmK` an offset is less by the gemm_k of the tap's first channel: where channels are
// neighbours, offset + gemm_k is then the offset of tap and channel.
template <bool kLessGemmK, class T>
CNNEXT_DEVICE void describe_taps(TapEntry* entries, const GatherArguments<T>& args, const BlockPhase& v,
                                 const BlockPhase& h) {
  const int taps = v.taps * h.taps;
  for (int tap = threadIdx.x; tap <= taps; tap += kThreads) {
    const int row = tap / larger(h.taps, 1), column = tap - row * h.taps;
    const int64_t offset = row * v.increment * args.source_strides.h +
                           column * h.increment * args.source_strides.w -
                           (kLessGemmK ? tap * args.source_channels : 0);
    const uint32_t bits = 1u << row | 1u << (v.taps + column);
    entries[tap] = tap == taps ? TapEntry{0, kNoTap} : TapEntry{static_cast<int>(offset), bits};
  }
}

// The bits of taps that lie outside [0, size) from `first` on.
CNNEXT_DEVICE uint32_t missing_taps(int first, int increment, int taps, int size) {
  uint32_t bits = 0;
  for (int tap = 0; tap < taps; ++tap) {
    const int at = first + tap * increment;
    bits |= (at < 0 || at >= size ? 1u : 0u) << tap;
  }
  return bits;
}

// Thread i describes row i of the tile; rows behind the last pixel miss every tap.
template <class Config, class T>
CNNEXT_DEVICE void describe_pixels(PixelEntry* entries, const GatherArguments<T>& args, const BlockPhase& v,
                                   const BlockPhase& h, int first_pixel, int first_image) {
  const int row = threadIdx.x, pixel = first_pixel + row, in_image = v.count * h.count;
  if (row >= Config::kTileM) return;
  if (pixel >= args.images * in_image) {
    entries[row] = {0, 0xffffffffu};
    return;
  }
  const int image = pixel / in_image, i = (pixel - image * in_image) / h.count;
  const int j = pixel - image * in_image - i * h.count;
  const int at_h = i * v.step + v.base, at_w = j * h.step + h.base;
  const int64_t offset = (image - first_image) * args.source_strides.n + at_h * args.source_strides.h +
                         at_w * args.source_strides.w;
  const uint32_t missing_rows = missing_taps(at_h, v.increment, v.taps, args.source_h);
  const uint32_t missing_columns = missing_taps(at_w, h.increment, h.taps, args.source_w);
  entries[row] = {static_cast<int>(offset), missing_rows | missing_columns << v.taps | kNoTap};
}

// What a block's loaders start from.
template <class T>
struct GatherStart {
  const T* source;       // the group's first channel in the image of the block's first pixel
  const T* packed_tile;  // the block's weights, step after step
  const TapEntry* taps;
  const PixelEntry* pixels;  // read by the constructors only
  int tap_count, source_channels;
  int64_t channel_stride;
  Divisor channels;
};

// B: the chunks of a step are neighbours in memory, in the order of shared memory.
template <class Config, class T>
class PackedWeightLoader {
 public:
  CNNEXT_DEVICE explicit PackedWeightLoader(const GatherStart<T>& start)
      : place_(
            in_register(static_cast<int>(threadIdx.x / 32 * kCount * 32 + threadIdx.x % 32) * kChunkBytes)),
        from_(reinterpret_cast<const char*>(start.packed_tile) + place_ + kCount / 2 * kApart) {}

  CNNEXT_DEVICE void fetch(char* tile) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      copies_.fetch(i, at(tile, i), from_ + (i - kCount / 2) * kApart, true);
    }
    from_ += Config::kTileN * Config::kRowBytes;
  }
  CNNEXT_DEVICE void land(char* tile) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) copies_.land(i, at(tile, i));
  }

 private:
  // A thread's chunks are those of a warp apart, and its pointer is in their middle: so near that the
  // instruction's constant, 12 bits with a sign, reaches them all.
  static constexpr int kCount = Config::kTileN * Config::kChunks / kThreads, kApart = 32 * kChunkBytes;
  static_assert(kCount / 2 * kApart <= 2048, "a constant of 12 bits");
  CNNEXT_DEVICE char* at(char* tile, int i) const { return tile + place_ + i * kApart; }
  int place_;
  const char* from_;
  ChunkCopies<kCount> copies_;
};

// A where channels are neighbours in memory and a multiple of a chunk: neighbouring threads copy a row.
template <class Config, class T>
class VectorLoader {
 public:
  static constexpr int kDescribed = kEveryStep;

  CNNEXT_DEVICE explicit VectorLoader(const GatherStart<T>& start)
      : source_(in_register(start.source)),
        taps_(start.taps),
        tap_count_(start.tap_count),
        channels_(start.channels),
        at_k_(threadIdx.x % Config::kChunks * kPerChunk<T>),
        place_(in_register(KContiguous<Config::kRowBytes>::offset(threadIdx.x / Config::kChunks,
                                                                  threadIdx.x % Config::kChunks))),
        weights_(start) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) pixels_[i] = start.pixels[threadIdx.x / Config::kChunks + i * kRowsApart];
  }

  CNNEXT_DEVICE void describe() {}
  CNNEXT_DEVICE void fetch(char* stage) {
    const int tap = channels_.quotient(at_k_);
    const TapEntry entry = taps_[smaller(tap, tap_count_)];
    const T* from = element_address(source_, entry.offset + at_k_);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const bool valid = (pixels_[i].missing & entry.bits) == 0;
      copies_.fetch(i, at(stage, i), element_address(from, pixels_[i].offset), valid);
    }
    at_k_ += kTileK<Config, T>;
    weights_.fetch(stage + Config::kTileM * Config::kRowBytes);
  }
  CNNEXT_DEVICE void land(char* stage) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) copies_.land(i, at(stage, i));
    weights_.land(stage + Config::kTileM * Config::kRowBytes);
  }

 private:
  static constexpr int kRows = Config::kTileM * Config::kChunks / kThreads;
  static constexpr int kRowsApart = kThreads / Config::kChunks;
  static_assert(kRowsApart % 8 == 0,
                "the swizzle repeats after 8 rows: a thread's chunks lie equally far apart");
  CNNEXT_DEVICE char* at(char* stage, int i) const {
    return stage + place_ + i * kRowsApart * Config::kRowBytes;
  }

  const T* source_;
  const TapEntry* taps_;
  int tap_count_;
  Divisor channels_;
  int at_k_;
  int place_;
  PixelEntry pixels_[kRows];
  ChunkCopies<kRows> copies_;
  PackedWeightLoader<Config, T> weights_;
};

// A from any strides and channels, value by value: neighbouring lanes load neighbouring pixels, and each
// packs the values of a chunk in registers. A warp has one chunk, so that its taps are the same for all
// lanes.
template <class Config, class T>
class GatherLoader {
 public:
  static constexpr int kDescribed = kEveryStep;

  CNNEXT_DEVICE explicit GatherLoader(const GatherStart<T>& start)
      : source_(start.source),
        taps_(start.taps),
        tap_count_(start.tap_count),
        channels_(start.channels),
        channel_stride_(static_cast<int>(start.channel_stride)),
        at_k_(threadIdx.x / 32 * kPerChunk<T>),
        place_(KContiguous<Config::kRowBytes>::offset(threadIdx.x % 32, threadIdx.x / 32)),
        weights_(start) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) pixels_[i] = start.pixels[threadIdx.x % 32 + i * 32];
  }

  CNNEXT_DEVICE void describe() {}
  CNNEXT_DEVICE void fetch(char* stage) {
#pragma unroll
    for (int e = 0; e < kPerChunk<T>; ++e) {
      const int at_k = at_k_ + e;
      const int tap = channels_.quotient(at_k), channel = at_k - tap * static_cast<int>(channels_.divisor);
      const TapEntry entry = taps_[smaller(tap, tap_count_)];
      const T* from = source_ + (entry.offset + channel * channel_stride_);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        values_[i][e] = T(0.0f);
        if ((pixels_[i].missing & entry.bits) == 0) values_[i][e] = from[pixels_[i].offset];
      }
    }
    at_k_ += kTileK<Config, T>;
    weights_.fetch(stage + Config::kTileM * Config::kRowBytes);
  }
  CNNEXT_DEVICE void land(char* stage) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      device::store_vector(reinterpret_cast<T*>(stage + place_ + i * 32 * Config::kRowBytes), values_[i]);
    }
    weights_.land(stage + Config::kTileM * Config::kRowBytes);
  }

 private:
  static constexpr int kRows = Config::kTileM / 32;
  static_assert(kThreads / 32 == Config::kChunks, "a warp for each chunk of a row");

  const T* source_;
  const TapEntry* taps_;
  int tap_count_;
  Divisor channels_;
  int channel_stride_;
  int at_k_;
  int place_;
  PixelEntry pixels_[kRows];
  device::Vector<T, kPerChunk<T>> values_[kRows];
  PackedWeightLoader<Config, T> weights_;
};

}  // namespace cnnext::tensor_core
