// NCHW pooling rows in scratch memory: padded, in compute precision, and sorted by phase.
//
// Pixel w lies at padded position j = w + pad, and phase j mod stride holds those positions one after
// another, at j / stride. Tap s of the windows q, q + 1, … is then one run of its phase: whatever the stride,
// the kernels read neighbouring windows with one plain load per tap. A row is converted and sorted once,
// however many taps use it.
#pragma once

#include "pool2d_axis.h"
#include "simd/shuffle.h"

namespace cnnext::CNNEXT_ISA {

// Hands out parts of a scratch buffer, each on its own cache line. With no buffer it only counts the bytes.
class Arena {
 public:
  explicit Arena(void* memory) : memory_(static_cast<char*>(memory)) {}

  template <typename T>
  T* take(int64_t count) {
    const int64_t offset = bytes_;
    bytes_ += round_up<int64_t>(count * static_cast<int64_t>(sizeof(T)), 64);
    return memory_ ? reinterpret_cast<T*>(memory_ + offset) : nullptr;
  }

  int64_t bytes() const { return bytes_; }

 private:
  char* memory_;
  int64_t bytes_ = 0;
};

struct Phases {
  int64_t stride, pad, size;  // of the axis; size in pixels
  int64_t span;               // padded positions that some window reaches
  int64_t length;             // of one phase, with room for a vector beyond its end

  int64_t total() const { return stride * length; }
  int64_t at(int64_t position) const { return position % stride * length + position / stride; }
};

template <typename C>
Phases phases_of(const PoolAxis& axis) {
  const int64_t span = (axis.windows - 1) * axis.stride + (axis.taps - 1) * axis.dilation + 1;
  const int64_t longest = ceil_div(larger(span, axis.size + axis.pad), axis.stride);
  return {axis.stride, axis.pad, axis.size, span, round_up<int64_t>(longest, kLanes<C>) + 2 * kLanes<C>};
}

// Σ of `count` ≥ 1 rows at p, p + step, …; `readable` values may be read from the last of them on.
template <typename T>
CNNEXT_INLINE Vec<compute_t<T>> sum_rows(const T* p, int64_t count, int64_t step, int64_t readable) {
  Vec<compute_t<T>> sum = load_up_to(p, readable + (count - 1) * step);
  for (int64_t i = 1; i < count; ++i) sum += load_up_to(p + i * step, readable + (count - 1 - i) * step);
  return sum;
}

// Writes the sum of `count` rows (one row: itself, bit by bit) into `out`, whose padding holds `fill`. Loads
// run over the end of a row into the next one, which is cheaper than a masked load, but never past `readable`
// values of the last row; what that leaves behind in the right padding is filled again.
template <typename T, typename C = compute_t<T>>
CNNEXT_INLINE void split_rows(const Phases& phases, const T* row, int64_t count, int64_t step,
                              int64_t readable, C fill, C* out) {
  constexpr int64_t L = kLanes<C>;
  const int64_t stride = phases.stride, pad = phases.pad;
  const int64_t used = smaller(phases.size, phases.span - pad);
  if (stride == 1) {
    for (int64_t w = 0; w < used; w += L) store(out + pad + w, sum_rows(row + w, count, step, readable - w));
  } else if (stride == 2) {
    C* even = out + phases.at(pad);
    C* odd = out + phases.at(pad + 1);
    for (int64_t w = 0; w < used; w += 2 * L) {
      const Vec<C> a = sum_rows(row + w, count, step, readable - w);
      const Vec<C> b = w + L < used ? sum_rows(row + w + L, count, step, readable - w - L) : a;
      store(even + w / 2, shuffle<C, EvenLanes>(a, b));
      store(odd + w / 2, shuffle<C, OddLanes>(a, b));
    }
  } else {
    int64_t phase = pad % stride, index = pad / stride;
    for (int64_t w = 0; w < used; w += L) {
      const Vec<C> v = sum_rows(row + w, count, step, readable - w);
      for (int64_t i = 0; i < smaller(L, used - w); ++i) {
        out[phase * phases.length + index] = v[i];
        if (++phase == stride) phase = 0, ++index;
      }
    }
  }
  for (int64_t j = pad + phases.size; j < phases.span; ++j) out[phases.at(j)] = fill;
}

// The way back: pixels [0, size) of a row of the tensor from `in`. Stores run over the end of the row while
// there are `writable` values, into what the caller writes next.
template <typename T, typename C = compute_t<T>>
CNNEXT_INLINE void merge_row(const Phases& phases, const C* in, T* row, int64_t writable) {
  constexpr int64_t L = kLanes<C>;
  const int64_t stride = phases.stride, pad = phases.pad, size = phases.size;
  if (stride == 1) {
    for (int64_t w = 0; w < size; w += L) store_first(row + w, load(in + pad + w), writable - w);
  } else if (stride == 2) {
    const C* even = in + phases.at(pad);
    const C* odd = in + phases.at(pad + 1);
    for (int64_t w = 0; w < size; w += 2 * L) {
      const Vec<C> a = load(even + w / 2), b = load(odd + w / 2);
      store_first(row + w, shuffle<C, InterleaveLow>(a, b), writable - w);
      if (w + L < size) store_first(row + w + L, shuffle<C, InterleaveHigh>(a, b), writable - w - L);
    }
  } else {
    int64_t phase = pad % stride, index = pad / stride;
    for (int64_t w = 0; w < size; w += L) {
      Vec<C> v{};
      for (int64_t i = 0; i < smaller(L, size - w); ++i) {
        v[i] = in[phase * phases.length + index];
        if (++phase == stride) phase = 0, ++index;
      }
      store_first(row + w, v, smaller(L, size - w));
    }
  }
}

// For the backward passes: the horizontal taps sorted by the phase they lie in, those of a phase from
// begin[phase] to begin[phase + 1]; last to first, so that a pixel meets its windows in the order in which
// torch adds them up. Pixel i of a phase is seen by window i − shift as that tap, so rows of windows keep
// `margin` zeros at the left.
struct TapsByPhase {
  int64_t margin;
  int64_t* begin;  // [stride + 1]
  int64_t* tap;    // [taps]
  int64_t* shift;  // [taps]

  TapsByPhase(const PoolAxis& axis, Arena& arena)
      : margin((axis.taps - 1) * axis.dilation / axis.stride),
        begin(arena.take<int64_t>(axis.stride + 1)),
        tap(arena.take<int64_t>(axis.taps)),
        shift(arena.take<int64_t>(axis.taps)) {}

  void start(const PoolAxis& axis) {
    int64_t count = 0;
    for (int64_t phase = 0; phase < axis.stride; ++phase) {
      begin[phase] = count;
      for (int64_t s = axis.taps - 1; s >= 0; --s) {
        if (s * axis.dilation % axis.stride != phase) continue;
        tap[count] = s;
        shift[count++] = s * axis.dilation / axis.stride;
      }
    }
    begin[axis.stride] = count;
  }
};

}  // namespace cnnext::CNNEXT_ISA
