// Vector loads and stores: N values of T moved by one instruction of 2, 4, 8 or 16 bytes. The pointer must be
// aligned to the whole vector; the device faults otherwise and the emulator reports it.
#pragma once

#include "platform.cuh"

namespace cnnext::device {

template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  static_assert(sizeof(T) * N == 2 || sizeof(T) * N == 4 || sizeof(T) * N == 8 || sizeof(T) * N == 16,
                "one instruction moves 2, 4, 8 or 16 bytes");
  static constexpr int kCount = N;

  T values[N];

  CNNEXT_DEVICE T& operator[](int i) { return values[i]; }
  CNNEXT_DEVICE const T& operator[](int i) const { return values[i]; }
};

// The widest vector of T.
template <class T>
inline constexpr int kMaxVector = 16 / static_cast<int>(sizeof(T));

#if !defined(CNNEXT_EMULATED)
namespace detail {
template <int Bytes>
struct WordOf;
template <>
struct WordOf<2> {
  using type = unsigned short;
};
template <>
struct WordOf<4> {
  using type = unsigned int;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<16> {
  using type = uint4;
};
template <class T, int N>
using Word = typename WordOf<static_cast<int>(sizeof(T)) * N>::type;
}  // namespace detail
#endif

template <int N, class T>
CNNEXT_DEVICE Vector<T, N> load_vector(const T* pointer) {
  Vector<T, N> vector;
#if defined(CNNEXT_EMULATED)
  emulator::load_vector(&vector, pointer, sizeof(vector));
#else
  using Word = detail::Word<T, N>;
  *reinterpret_cast<Word*>(&vector) = *reinterpret_cast<const Word*>(pointer);
#endif
  return vector;
}

// Through the read-only path (ld.global.nc): for global memory that no thread writes during the kernel.
template <int N, class T>
CNNEXT_DEVICE Vector<T, N> load_vector_readonly(const T* pointer) {
#if defined(CNNEXT_EMULATED)
  return load_vector<N>(pointer);
#else
  using Word = detail::Word<T, N>;
  Vector<T, N> vector;
  *reinterpret_cast<Word*>(&vector) = __ldg(reinterpret_cast<const Word*>(pointer));
  return vector;
#endif
}

template <int N, class T>
CNNEXT_DEVICE void store_vector(T* pointer, const Vector<T, N>& vector) {
#if defined(CNNEXT_EMULATED)
  emulator::store_vector(pointer, &vector, sizeof(vector));
#else
  using Word = detail::Word<T, N>;
  *reinterpret_cast<Word*>(pointer) = *reinterpret_cast<const Word*>(&vector);
#endif
}

// Whether every row of a tensor can be reached by vectors of N: the base is aligned and so is each stride.
template <int N, class T>
inline bool can_vectorize(const T* pointer, int64_t stride) {
  return reinterpret_cast<uintptr_t>(pointer) % (sizeof(T) * N) == 0 && stride % N == 0;
}

}  // namespace cnnext::device
