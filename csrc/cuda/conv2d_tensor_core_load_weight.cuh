// Filling a stage for the weight gradient: gemm_m are output channels, gemm_n = (tap, input channel), gemm_k
// the pixels of the gradient. A is the gradient, B the input at the pixel's tap.
//
// Idea: what belongs to a pixel (offsets in both tensors, the taps outside the image) is worked out once,
// by one thread each, for some steps at a time; what belongs to a tap and channel does not change from step
// to step and stays in registers. What is left for an element of B is two additions and one test.
#pragma once

#include "conv2d_tensor_core_load.cuh"

namespace cnnext::tensor_core {

template <class T>
struct WeightArguments {
  const T* grad;
  const T* x;
  float* partial;  // [split][k, r, s, c]
  ImageStrides grad_strides, x_strides;
  int h, w, stride_h, stride_w, pad_h, pad_w;
  int tap_rows, tap_columns, taps;  // R, S, R·S
  int group_c, group_k;
  int pixels, split_pixels;  // of all images; of a split, whole steps
  int tiles_n;
  Divisor image_pixels, columns;  // P·Q, Q
  Divisor dilation_h, dilation_w;
};

// The bits of taps that lie outside [0, size) from `first` on: those before a first one and from a last one
// on.
CNNEXT_DEVICE uint32_t missing_taps(int first, const Divisor& dilation, int taps, int size) {
  const auto taps_before = [&](int at) {
    const int reach = larger(at - first, 0) + static_cast<int>(dilation.divisor) - 1;
    return smaller(static_cast<int>(dilation.quotient(static_cast<uint32_t>(reach))), taps);
  };
  return ((1u << taps) - 1) ^ ((1u << taps_before(size)) - (1u << taps_before(0)));
}

struct alignas(16) WeightPixel {
  int x_offset;      // of the first tap, from the first image of the split
  int grad_offset;   // −1: no pixel
  uint32_t missing;  // the bits of rows and columns of taps outside the image, and bit 31
  int unused;
};

// One thread describes one pixel, for `kSteps` steps at a time, ahead of those that read them and outside of
// the main loop. The table is a ring of three such parts: while one is read and the next waits, the third is
// written, with barriers between the steps of a part. `kAhead` steps are read before the main loop starts, so
// the first part has these alone. Where lanes read pixels 8 apart, entries are exchanged within eights, so
// that they lie in different banks.
template <class T, int kCount, int kAhead, bool kExchanged>
class WeightPixels {
 public:
  static constexpr int kSteps = kThreads / kCount;
  static_assert(kAhead <= kSteps, "what is read ahead fits into a part");
  using Table = WeightPixel[3 * kThreads];

  CNNEXT_DEVICE WeightPixels(Table& table, const WeightArguments<T>& args, int first_pixel, int first_image)
      : table_(table),
        args_(args),
        pixel_(static_cast<uint32_t>(first_pixel - kBehind) + threadIdx.x),
        first_image_(first_image) {
    describe();
    describe();
  }
  // The pixels of this step.
  CNNEXT_DEVICE WeightPixel current(int i) const {
    const auto words = device::load_vector<4>(reinterpret_cast<const int*>(&table_[read_ + place(i)]));
    return {words[0], words[1], static_cast<uint32_t>(words[2]), words[3]};
  }
  CNNEXT_DEVICE void advance() { read_ = read_ + kCount == 3 * kThreads ? 0 : read_ + kCount; }

  // The next part.
  CNNEXT_DEVICE void describe() {
    const int at = threadIdx.x;
    write(table_[write_ + at / kCount * kCount + place(at % kCount)]);
    pixel_ += kThreads;
    write_ = write_ + kThreads == 3 * kThreads ? 0 : write_ + kThreads;
  }

 private:
  static constexpr int kBehind = (kSteps - kAhead) * kCount;  // entries of the first part that nobody reads
  static CNNEXT_DEVICE int place(int i) { return kExchanged ? i ^ i / 8 : i; }
  static_assert(kCount <= 64, "eights are exchanged by a number below 8");

  CNNEXT_DEVICE void write(WeightPixel& entry) const {
    device::Vector<int, 4> words{{0, -1, -1, 0}};
    if (pixel_ < static_cast<uint32_t>(args_.pixels)) {
      const int image = args_.image_pixels.quotient(pixel_), rest = args_.image_pixels.remainder(pixel_);
      const int p = args_.columns.quotient(rest), q = args_.columns.remainder(rest);
      const int h = p * args_.stride_h - args_.pad_h, w = q * args_.stride_w - args_.pad_w;
      const ImageStrides &xs = args_.x_strides, &gs = args_.grad_strides;
      words[0] = static_cast<int>((image - first_image_) * xs.n + h * xs.h + w * xs.w);
      words[1] = static_cast<int>((image - first_image_) * gs.n + p * gs.h + q * gs.w);
      const uint32_t missing_rows = missing_taps(h, args_.dilation_h, args_.tap_rows, args_.h);
      const uint32_t missing_columns = missing_taps(w, args_.dilation_w, args_.tap_columns, args_.w);
      words[2] = static_cast<int>(missing_rows | missing_columns << args_.tap_rows | kNoTap);
    }
    device::store_vector(reinterpret_cast<int*>(&entry), words);
  }

  Table& table_;
  const WeightArguments<T>& args_;
  uint32_t pixel_;
  int first_image_;
  int read_ = kBehind, write_ = 0;
};

// What belongs to row n of gemm_n: (tap, channel). Rows behind the last are outside for every pixel.
template <class T>
struct WeightTap {
  int offset = 0;
  uint32_t bits = kNoTap;

  CNNEXT_DEVICE WeightTap(const WeightArguments<T>& args, int n) {
    const int tap = n / args.group_c, channel = n - tap * args.group_c;
    if (tap >= args.taps) return;
    const int row = tap / args.tap_columns, column = tap % args.tap_columns;
    bits = 1u << row | 1u << (args.tap_rows + column);
    offset = static_cast<int>(row * static_cast<int>(args.dilation_h.divisor) * args.x_strides.h +
                              column * static_cast<int>(args.dilation_w.divisor) * args.x_strides.w +
                              channel * args.x_strides.c);
  }
};

template <class T>
struct WeightStart {
  const T* grad;  // the group's first channel in the first image of the split
  const T* x;
  int first_m, first_n;
};

// NHWC with channels in whole chunks: KStrided tiles, a pixel's channels by 16 bytes.
template <class Config, class T>
class WeightVectorLoader {
 public:
  static constexpr int kPixels = kTileK<Config, T>;
  static constexpr int kAhead = Config::stages(kHasAsyncCopy) - 1;
  using Pixels = WeightPixels<T, kPixels, kAhead, false>;
  static constexpr int kDescribed = Pixels::kSteps;
  using TileA = KStrided<T, Config::kTileM>;
  using TileB = KStrided<T, Config::kTileN>;

  CNNEXT_DEVICE WeightVectorLoader(const WeightStart<T>& start, const WeightArguments<T>& args,
                                   Pixels& pixels)
      : pixels_(pixels),
        grad_(start.grad + start.first_m + column_a()),
        m_is_there_(start.first_m + column_a() < args.group_k),
        tap_(args, start.first_n + column_b()),
        x_(start.x + tap_.offset),
        place_a_(in_register(TileA::offset(row_a(), column_a() / kPerChunk<T>))),
        place_b_(in_register(TileB::offset(row_b(), column_b() / kPerChunk<T>))) {}

  CNNEXT_DEVICE void describe() { pixels_.describe(); }
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
      const bool valid = (pixels_b[i].missing & tap_.bits) == 0;
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
  static constexpr int kAhead = Config::stages(kHasAsyncCopy) - 1;
  using Pixels = WeightPixels<T, kPixels, kAhead, true>;
  static constexpr int kDescribed = Pixels::kSteps;

  CNNEXT_DEVICE WeightGatherLoader(const WeightStart<T>& start, const WeightArguments<T>& args,
                                   Pixels& pixels)
      : pixels_(pixels),
        grad_(start.grad),
        x_(start.x),
        place_(KContiguous<Config::kRowBytes>::offset(row(0), chunk())) {
#pragma unroll
    for (int i = 0; i < kCountA; ++i) {
      const int m = start.first_m + row(i);
      grad_row_[i] = m < args.group_k ? static_cast<int>(m * args.grad_strides.c) : -1;
    }
#pragma unroll
    for (int i = 0; i < kCountB; ++i) {
      const WeightTap<T> tap(args, start.first_n + row(i));
      tap_offset_[i] = tap.offset, tap_bits_[i] = tap.bits;
    }
  }

  CNNEXT_DEVICE void describe() { pixels_.describe(); }
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
        if ((pixel.missing & tap_bits_[i]) == 0) b_[i][e] = x_[pixel.x_offset + tap_offset_[i]];
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
  int place_;
  int grad_row_[kCountA];
  int tap_offset_[kCountB];
  uint32_t tap_bits_[kCountB];
  Chunk a_[kCountA], b_[kCountB];
};

}  // namespace cnnext::tensor_core
