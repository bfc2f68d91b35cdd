// N neighbouring values to and from an array: by one vector, or one value by itself, so that a kernel is
// written once for both.
#pragma once

#include "vec_load.cuh"

namespace cnnext::device {

// N is 1, or the values fill one vector.
template <int N, class T>
CNNEXT_DEVICE void load_values(const T* from, T (&to)[N]) {
  if constexpr (N == 1) {
    to[0] = *from;
  } else {
    const auto vector = load_vector_readonly<N>(from);
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = vector[i];
  }
}

template <int N, class T>
CNNEXT_DEVICE void store_values(T* to, const T (&from)[N]) {
  if constexpr (N == 1) {
    *to = from[0];
  } else {
    Vector<T, N> vector;
#pragma unroll
    for (int i = 0; i < N; ++i) vector[i] = from[i];
    store_vector(to, vector);
  }
}

}  // namespace cnnext::device
