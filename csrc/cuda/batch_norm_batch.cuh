// The vectors that a thread of batch_norm has in registers at once.
#pragma once

#include "batch_norm_walk.cuh"

namespace cnnext {

// What a batch of a thread's vectors holds; those past its end count for nothing.
template <class T, class Walk>
struct BatchNormBatch {
  device::Vector<T, Walk::kVector> values[Walk::kBatch];
  int64_t first, count;

  CNNEXT_DEVICE void load(const Walk& walk, int64_t from, const T* x) {
    first = from;
    count = walk.count();
#pragma unroll
    for (int b = 0; b < Walk::kBatch; ++b) {
      if (holds(b)) values[b] = device::load_vector_readonly<Walk::kVector>(x + walk.offset(first + b));
    }
  }

  CNNEXT_DEVICE bool holds(int b) const { return first + b < count; }

  CNNEXT_DEVICE compute_t<T> operator()(int b, int i) const { return device::to_compute(values[b][i]); }

  // Zero in place of the values where(b, i, m) holds for, m as below.
  template <class Where>
  CNNEXT_DEVICE void zero_where(const Where& where) {
#pragma unroll
    for (int b = 0; b < Walk::kBatch; ++b) {
      if (!holds(b)) break;
#pragma unroll
      for (int i = 0; i < Walk::kVector; ++i) {
        if (where(b, i, Walk::sum_of(i))) values[b][i] = device::from_compute<T>(0);
      }
    }
  }

  // Adds term(b, i, m) for the vectors that are there, as a tree, so that one large value takes few roundings
  // with it; m is which of the walk's sums value i of a vector belongs to.
  template <class C, class Term>
  CNNEXT_DEVICE void sum(C (&sums)[Walk::kSums], const Term& term) const {
    constexpr int N = Walk::kVector;
    static_assert(Walk::kBatch == 2 || Walk::kBatch == 4, "the first levels of the tree are written out");
    C column[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const auto at = [&](int b) { return holds(b) ? term(b, i, Walk::sum_of(i)) : C{0}; };
      column[i] = at(0) + at(1);
      if constexpr (Walk::kBatch == 4) column[i] += at(2) + at(3);
    }
    if constexpr (Walk::kSums == N) {
#pragma unroll
      for (int i = 0; i < N; ++i) sums[i] = column[i];
    } else {
#pragma unroll
      for (int half = N / 2; half > 0; half /= 2) {
#pragma unroll
        for (int i = 0; i < half; ++i) column[i] += column[i + half];
      }
      sums[0] = column[0];
    }
  }

  // Writes result(b, i, m) in place of the values.
  template <class Result>
  CNNEXT_DEVICE void store(const Walk& walk, T* y, const Result& result) const {
#pragma unroll
    for (int b = 0; b < Walk::kBatch; ++b) {
      if (!holds(b)) break;
      device::Vector<T, Walk::kVector> results;
#pragma unroll
      for (int i = 0; i < Walk::kVector; ++i) {
        results[i] = device::from_compute<T>(result(b, i, Walk::sum_of(i)));
      }
      device::store_vector(y + walk.offset(first + b), results);
    }
  }
};

}  // namespace cnnext
