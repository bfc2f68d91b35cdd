// How the batch_norm kernels walk through memory, in both directions and both layouts.
#pragma once

#include "batch_norm_kernel.h"
#include "simd/vec.h"

namespace cnnext::CNNEXT_ISA {

// Independent sums that a reduction keeps in registers: enough to hide the latency of an addition.
inline constexpr int kAccumulators = 4;

// channels_last: the channels of a strip are summed together, row after row, in kAccumulators vectors.
template <typename C>
inline constexpr int64_t kStripWidth = kAccumulators * kLanes<C>;

// Additions into one accumulator of compute precision before it is emptied into a double.
inline constexpr int64_t kAdditions = 16;

// Values of one channel in NCHW that a reduction takes as one block.
template <typename C>
inline constexpr int64_t kBlockValues = kAdditions * kAccumulators * kLanes<C>;

// NCHW: the values [begin, end) of a channel as patches of at most `longest` values: `runs` runs of `length`
// values, the first at `offset` of the tensor, the next `pitch` further. Small images share a patch, large
// ones are cut.
class Patches {
 public:
  Patches(const BatchNormShape& shape, const BatchNormBlock& block, int64_t longest)
      : pitch(shape.c * shape.hw),
        hw_(shape.hw),
        position_(block.begin),
        end_(block.end),
        images_(longest / shape.hw),
        longest_(longest),
        image_(block.begin == 0 ? 0 : block.begin / shape.hw) {}

  // The same values of channel c.
  Patches of_channel(int64_t c) const {
    Patches patches = *this;
    patches.channel_offset_ = c * hw_;
    return patches;
  }

  // Moves on to the next patch; false when there is none.
  bool next() {
    if (position_ >= end_) return false;
    const int64_t inside = position_ - image_ * hw_, rest = end_ - position_;
    offset = channel_offset_ + image_ * pitch + inside;
    if (inside == 0 && hw_ <= longest_ && hw_ <= rest) {
      runs = images_ * hw_ <= rest ? images_ : rest / hw_;
      length = hw_;
    } else {
      runs = 1;
      length = smaller(smaller(hw_ - inside, rest), longest_);
    }
    position_ += runs * length;
    image_ += length == hw_ ? runs : inside + length == hw_;
    return true;
  }

  int64_t offset = 0, length = 0, runs = 0, pitch;
  int64_t values() const { return runs * length; }

 private:
  int64_t hw_, position_, end_, images_, longest_, image_, channel_offset_ = 0;
};

// For reductions: step(i, skip, n, j) for the vectors that make up [0, length), of which the lanes [skip, n)
// count, with the accumulator j going round. All lanes count but in the last vector, which reaches back over
// values that were seen before rather than end early: a whole load is cheaper than a part of one.
template <typename C, typename Step>
CNNEXT_INLINE void for_each_vector_once(int64_t length, const Step& step) {
  constexpr int64_t L = kLanes<C>;
  int64_t i = 0;
  for (; i + kAccumulators * L <= length; i += kAccumulators * L) {
#pragma GCC unroll 4
    for (int j = 0; j < kAccumulators; ++j) step(i + j * L, int64_t{0}, L, j);
  }
#pragma GCC unroll 4
  for (int j = 0; j < kAccumulators - 1; ++j) {
    if (i + L > length) break;
    step(i, int64_t{0}, L, j);
    i += L;
  }
  if (i == length) return;
  if (length < L) return step(int64_t{0}, int64_t{0}, length, kAccumulators - 1);
  step(length - L, L - (length - i), L, kAccumulators - 1);
}

// The lanes [skip, n) of v, zero in the others.
template <typename C>
CNNEXT_INLINE Vec<C> counted(Vec<C> v, int64_t skip, int64_t n) {
  if (n < kLanes<C>) return select<C>(first_lanes<C>(n), v, Vec<C>{});
  return skip > 0 ? select<C>(first_lanes<C>(skip), Vec<C>{}, v) : v;
}

// For maps from one tensor to another: step(i, n) for vectors that cover [begin, end). The last one reaches
// back and writes the same values again; only a range shorter than a vector has n < kLanes.
template <typename C, typename Step>
CNNEXT_INLINE void for_each_vector(int64_t begin, int64_t end, const Step& step) {
  constexpr int64_t L = kLanes<C>;
  int64_t i = begin;
  for (; i + L <= end; i += L) step(i, L);
  if (i == end) return;
  if (end - begin < L) return step(begin, end - begin);
  step(end - L, L);
}

// The lower or the upper half of the lanes in double. (g++ 12 makes two conversions of
// __builtin_convertvector.)
template <int kHalf>
CNNEXT_INLINE Vec<double> widen_half(Vec<float> v) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec<double>>(
      _mm512_cvtps_pd(_mm512_extractf32x8_ps(reinterpret_cast<__m512>(v), kHalf)));
#elif defined(__AVX2__)
  return reinterpret_cast<Vec<double>>(
      _mm256_cvtps_pd(_mm256_extractf128_ps(reinterpret_cast<__m256>(v), kHalf)));
#else
  Vec<double> wide;
  for (int i = 0; i < kLanes<double>; ++i) wide[i] = static_cast<double>(v[kHalf * kLanes<double> + i]);
  return wide;
#endif
}

// Σ over the lanes of kAccumulators vectors, in double.
template <typename C, typename V = Vec<C>>
CNNEXT_INLINE double total(const V* sums) {
  const V sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  if constexpr (__is_same(C, double)) {
    return horizontal_sum<double>(sum);
  } else {
    return horizontal_sum<double>(widen_half<0>(sum) + widen_half<1>(sum));
  }
}

// What the sums of the gradients are taken in, in NCHW: double where float would add more error to them than
// rounding the inputs did. 16-bit inputs carry more than that.
template <typename T>
struct SumType {
  using type = double;
};
template <>
struct SumType<half_t> {
  using type = float;
};
template <>
struct SumType<bfloat16_t> {
  using type = float;
};
template <typename T>
using sum_t = typename SumType<T>::type;

// add(a, b, j) with the values as sum_t<T>: as they are for sum j of kAccumulators, or the two halves for two
// sums.
template <typename T, typename C = compute_t<T>, typename Add>
CNNEXT_INLINE void add_to_sums(Vec<C> a, Vec<C> b, int j, const Add& add) {
  if constexpr (__is_same(sum_t<T>, C)) {
    add(a, b, j);
  } else {
    add(widen_half<0>(a), widen_half<0>(b), 2 * (j % 2));
    add(widen_half<1>(a), widen_half<1>(b), 2 * (j % 2) + 1);
  }
}

// values[channel] → values[channel · fold …], in place from the end, for the coefficients of folded columns.
template <typename C>
CNNEXT_INLINE void spread(const BatchNormShape& shape, C* values) {
  if (shape.fold == 1) return;
  for (int64_t channel = shape.channels(); channel-- > 0;) {
    const Vec<C> value = broadcast(values[channel]);
    C* columns = values + channel * shape.fold;
    for_each_vector<C>(0, shape.fold, [&](int64_t i, int64_t n) { store_first(columns + i, value, n); });
  }
}

}  // namespace cnnext::CNNEXT_ISA
