// Filling a stage for the weight gradient: gemm_m are output channels, gemm_n = (tap, input channel), gemm_k
// the pixels of the gradient. A is the gradient, B the input at the pixel's tap.
//
// Idea: what belongs to a pixel (offsets in both tensors, coordinates of its first tap) is worked out once a
// step by one thread each, for the step after; what belongs to a tap and channel does not change from step to
// step and stays in registers. What is left for an element of B is two additions and one test.
#pragma once

#include "conv2d_tensor_core_load.cuh"

namespace cnnext::tensor_core {

template <class T>
struct WeightArguments {
  const T* grad;
  const T* x;
  float* partial;  // [split][k, r, s, c]
  ImageStrides grad_strides, x_strides;
  int h, w, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w;
  int tap_columns, taps;  // S, R·S
  int group_c, group_k;
  int pixels, split_pixels;  // of all images; of a split, whole steps
  int tiles_n;
  Divisor image_pixels, columns;  // P·Q, Q
};

// Two coordinates as h·2^16 + w. A sum of two is right in both halves as long as w is not negative, and shows
// in bit 15 that it is: so bits 31 and 15 of `at` and of `last − at` tell whether both lie in [0, last].
// Coordinates are below 2^14 in size (kMaxSide).
CNNEXT_DEVICE int packed_coordinates(int h, int w) { return h * (1 << 16) + w; }
CNNEXT_DEVICE bool lies_inside(int at, int last) {
  return ((static_cast<uint32_t>(at) | static_cast<uint32_t>(last - at)) & 0x80008000u) == 0;
}
inline constexpr int kOutside = -kMaxSide;

struct alignas(16) WeightPixel {
  int x_offset;     // of the first tap, from the first image of the split
  int grad_offset;  // −1: no pixel
  int at;           // packed coordinates of the first tap
  int unused;
};

// One thread describes one pixel of a step, for the step after it. Where lanes read pixels 8 apart, entries
// are exchanged within eights, so that they lie in different banks.
template <class T, int kCount, bool kExchanged>
class WeightPixels {
 public:
  using Table = WeightPixel[2][kCount];

  CNNEXT_DEVICE WeightPixels(Table& table, const WeightArguments<T>& args, int first_pixel, int first_image)
      : table_(table), args_(args), pixel_(first_pixel + threadIdx.x), first_image_(first_image) {
    describe(0);
  }
  // The pixels of this step; behind the reading, the next step's are described. Barriers lie between two
  // steps.
  CNNEXT_DEVICE WeightPixel current(int i) const {
    const auto words = device::load_vector<4>(reinterpret_cast<const int*>(&table_[parity_][place(i)]));
    return {words[0], words[1], words[2], words[3]};
  }
  CNNEXT_DEVICE void advance() {
    parity_ ^= 1;
    pixel_ += kCount;
    describe(parity_);
  }

 private:
  static CNNEXT_DEVICE int place(int i) { return kExchanged ? i ^ i / 8 : i; }
  static_assert(kCount <= 64, "eights are exchanged by a number below 8");
  CNNEXT_DEVICE void write(int parity, int x_offset, int grad_offset, int at) {
    const device::Vector<int, 4> words{{x_offset, grad_offset, at, 0}};
    device::store_vector(reinterpret_cast<int*>(&table_[parity][place(threadIdx.x)]), words);
  }
  CNNEXT_DEVICE void describe(int parity) {
    if (threadIdx.x >= kCount) return;
    if (pixel_ >= args_.pixels) {
      write(parity, 0, -1, packed_coordinates(kOutside, 0));
      return;
    }
    const int image = args_.image_pixels.quotient(pixel_), rest = args_.image_pixels.remainder(pixel_);
    const int p = args_.columns.quotient(rest), q = args_.columns.remainder(rest);
    const int h = p * args_.stride_h - args_.pad_h, w = q * args_.stride_w - args_.pad_w;
    const ImageStrides &xs = args_.x_strides, &gs = args_.grad_strides;
    const int64_t x_offset = (image - first_image_) * xs.n + h * xs.h + w * xs.w;
    const int64_t grad_offset = (image - first_image_) * gs.n + p * gs.h + q * gs.w;
    write(parity, static_cast<int>(x_offset), static_cast<int>(grad_offset), packed_coordinates(h, w));
  }

  Table& table_;
  const WeightArguments<T>& args_;
  int pixel_, first_image_;
  int parity_ = 0;
};

// What belongs to row n of gemm_n: (tap, channel). Rows behind the last are outside for every pixel.
template <class T>
struct WeightTap {
  int offset, at;

  CNNEXT_DEVICE WeightTap(const WeightArguments<T>& args, int n)
      : offset(0), at(packed_coordinates(kOutside, 0)) {
    const int tap = n / args.group_c, channel = n - tap * args.group_c;
    if (tap >= args.taps) return;
    const int h = tap / args.tap_columns * args.dil_h, w = tap % args.tap_columns * args.dil_w;
    at = packed_coordinates(h, w);
    offset = static_cast<int>(h * args.x_strides.h + w * args.x_strides.w + channel * args.x_strides.c);
  }
};

template <class T>
struct WeightStart {
  const T* grad;  // the group's first channel in the first image of the split
  const T* x;
  int first_m, first_n;
  int last;  // packed coordinates of the last pixel of an image
};

// NHWC with channels in whole chunks: KStrided tiles, a pixel's channels by 16 bytes.
template <class Config, class T>
class WeightVectorLoader {
 public:
  static constexpr int kPixels = kTileK<Config, T>;
  using Pixels = WeightPixels<T, kPixels, false>;
  using TileA = KStrided<T, Config::kTileM>;
  using TileB = KStrided<T, Config::kTileN>;

  CNNEXT_DEVICE WeightVectorLoader(const WeightStart<T>& start, const WeightArguments<T>& args,
                                   Pixels& pixels)
      : pixels_(pixels),
        grad_(start.grad + start.first_m + column_a()),
        last_(start.last),
        m_is_there_(start.first_m + column_a() < args.group_k),
        tap_(args, start.first_n + column_b()),
        x_(start.x + tap_.offset),
        place_a_(in_register(TileA::offset(row_a(), column_a() / kPerChunk<T>))),
        place_b_(in_register(TileB::offset(row_b(), column_b() / kPerChunk<T>))) {}

  CNNEXT_DEVICE void fetch(char* stage) {
    // All of the table is read before the first copy: the compiler keeps the two kinds of shared memory
    // access apart by some empty instructions wherever they alternate.
    WeightPixel pixels_a[kCountA], pixels_b[kCountB];
#pragma unroll
    for (int i = 0; i < kCountA; ++i) pixels_a[i] = pixels_.current(row_a() + i * kApartA);
#pragma unroll
    for (int i = 0; i < kCountB; ++i) pixels_b[i] = pixels_.current(row_b() + i * kApartB);
#pragma unroll
    for (int i = 0; i < kCountA; ++i) {
      const bool valid = pixels_a[i].grad_offset >= 0 && m_is_there_;
      copies_a_.fetch(i, at_a(stage, i), element_address(grad_, pixels_a[i].grad_offset), valid);
    }
#pragma unroll
    for (int i = 0; i < kCountB; ++i) {
      const bool valid = lies_inside(pixels_b[i].at + tap_.at, last_);
      copies_b_.fetch(i, at_b(stage, i), element_address(x_, pixels_b[i].x_offset), valid);
    }
    pixels_.advance();
  }
  CNNEXT_DEVICE void land(char* stage) {
#pragma unroll
    for (int i = 0; i < kCountA; ++i) copies_a_.land(i, at_a(stage, i));
#pragma unroll
    for (int i = 0; i < kCountB; ++i) copies_b_.land(i, at_b(stage, i));
  }

 private:
  static constexpr int kChunksA = TileA::kPitch / kChunkBytes, kChunksB = TileB::kPitch / kChunkBytes;
  static constexpr int kApartA = kThreads / kChunksA, kApartB = kThreads / kChunksB;
  static constexpr int kCountA = kPixels / kApartA, kCountB = kPixels / kApartB;
  static_assert(kApartA % (sizeof(T) == 2 ? 8 : 4) == 0 && kApartB % (sizeof(T) == 2 ? 8 : 4) == 0,
                "a thread's rows are a period of the swizzle apart");
  static CNNEXT_DEVICE int row_a() { return threadIdx.x / kChunksA; }
  static CNNEXT_DEVICE int row_b() { return threadIdx.x / kChunksB; }
  static CNNEXT_DEVICE int column_a() { return threadIdx.x % kChunksA * kPerChunk<T>; }
  static CNNEXT_DEVICE int column_b() { return threadIdx.x % kChunksB * kPerChunk<T>; }
  CNNEXT_DEVICE char* at_a(char* stage, int i) const {
    return stage + place_a_ + i * kApartA * TileA::kPitch;
  }
  CNNEXT_DEVICE char* at_b(char* stage, int i) const {
    return stage + Config::kTileM * Config::kRowBytes + place_b_ + i * kApartB * TileB::kPitch;
  }

  Pixels& pixels_;
  const T* grad_;
  int last_;
  bool m_is_there_;
  WeightTap<T> tap_;
  const T* x_;  // at the tap
  int place_a_, place_b_;
  ChunkCopies<kCountA> copies_a_;
  ChunkCopies<kCountB> copies_b_;
};

// Any strides and channels: KContiguous tiles; a thread gathers the pixels of a chunk for some rows of A and
// of B.
template <class Config, class T>
class WeightGatherLoader {
 public:
  static constexpr int kPixels = kTileK<Config, T>;
  using Pixels = WeightPixels<T, kPixels, true>;

  CNNEXT_DEVICE WeightGatherLoader(const WeightStart<T>& start, const WeightArguments<T>& args,
                                   Pixels& pixels)
      : pixels_(pixels),
        grad_(start.grad),
        x_(start.x),
        last_(start.last),
        place_(KContiguous<Config::kRowBytes>::offset(row(0), chunk())) {
#pragma unroll
    for (int i = 0; i < kCountA; ++i) {
      const int m = start.first_m + row(i);
      grad_row_[i] = m < args.group_k ? static_cast<int>(m * args.grad_strides.c) : -1;
    }
#pragma unroll
    for (int i = 0; i < kCountB; ++i) {
      const WeightTap<T> tap(args, start.first_n + row(i));
      tap_offset_[i] = tap.offset, tap_at_[i] = tap.at;
    }
  }

  CNNEXT_DEVICE void fetch(char*) {
#pragma unroll
    for (int e = 0; e < kPerChunk<T>; ++e) {
      const WeightPixel pixel = pixels_.current(chunk() * kPerChunk<T> + e);
#pragma unroll
      for (int i = 0; i < kCountA; ++i) {
        a_[i][e] = T(0.0f);
        if (pixel.grad_offset >= 0 && grad_row_[i] >= 0) a_[i][e] = grad_[pixel.grad_offset + grad_row_[i]];
      }
#pragma unroll
      for (int i = 0; i < kCountB; ++i) {
        b_[i][e] = T(0.0f);
        if (lies_inside(pixel.at + tap_at_[i], last_)) b_[i][e] = x_[pixel.x_offset + tap_offset_[i]];
      }
    }
    pixels_.advance();
  }
  CNNEXT_DEVICE void land(char* stage) {
    char* tile_b = stage + Config::kTileM * Config::kRowBytes;
#pragma unroll
    for (int i = 0; i < kCountA; ++i) store(stage, i, a_[i]);
#pragma unroll
    for (int i = 0; i < kCountB; ++i) store(tile_b, i, b_[i]);
  }

 private:
  using Chunk = device::Vector<T, kPerChunk<T>>;
  static constexpr int kApart = kThreads / Config::kChunks;
  static constexpr int kCountA = Config::kTileM / kApart, kCountB = Config::kTileN / kApart;
  static CNNEXT_DEVICE int chunk() { return threadIdx.x % Config::kChunks; }
  static CNNEXT_DEVICE int row(int i) { return threadIdx.x / Config::kChunks + i * kApart; }
  CNNEXT_DEVICE void store(char* tile, int i, const Chunk& values) const {
    device::store_vector(reinterpret_cast<T*>(tile + place_ + i * kApart * Config::kRowBytes), values);
  }

  Pixels& pixels_;
  const T* grad_;
  const T* x_;
  int last_, place_;
  int grad_row_[kCountA];
  int tap_offset_[kCountB], tap_at_[kCountB];
  Chunk a_[kCountA], b_[kCountB];
};

}  // namespace cnnext::tensor_core
