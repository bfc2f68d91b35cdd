// Which instruction set a kernel file is compiled for, and which one this machine runs.
//
// Every csrc/cpu/<op>_kernel.cpp is compiled once per instruction set with -DCNNEXT_ISA=<name> and the
// matching -m flags; its code lies in namespace cnnext::<name>. The choice is made once, when the library is
// loaded, from cpuid, so that one binary serves every x86-64. `generic` uses 128-bit vectors, which is SSE2
// on x86-64 and NEON on arm64, and needs no flag.
#pragma once

#include <cstdint>

#if defined(__AVX512F__)
#define CNNEXT_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define CNNEXT_VECTOR_BYTES 32
#else
#define CNNEXT_VECTOR_BYTES 16
#endif

#if defined(__x86_64__)
#define CNNEXT_FOR_EACH_ISA(F, ...) F(generic, __VA_ARGS__) F(avx2, __VA_ARGS__) F(avx512, __VA_ARGS__)
#else
#define CNNEXT_FOR_EACH_ISA(F, ...) F(generic, __VA_ARGS__)
#endif

namespace cnnext {

enum class Isa { generic, avx2, avx512 };

// The widest set that this machine has, or the one that the environment variable CNNEXT_ISA names, if that
// is narrower.
Isa current_isa();
const char* isa_name(Isa isa);

struct half_t;
struct bfloat16_t;

}  // namespace cnnext

#define CNNEXT_DECLARE_KERNELS_FOR(isa, Table, getter) \
  namespace isa {                                      \
  template <typename T>                                \
  const Table<T>& getter();                            \
  }

#define CNNEXT_RETURN_KERNELS_OF(isa, getter) \
  case Isa::isa:                              \
    return isa::getter<T>();

// In <op>_kernel.h, inside namespace cnnext: `Table<T>` is a struct of function pointers; afterwards
// `getter<T>()` is the table for the machine at hand.
#define CNNEXT_DECLARE_KERNELS(Table, getter)                    \
  CNNEXT_FOR_EACH_ISA(CNNEXT_DECLARE_KERNELS_FOR, Table, getter) \
  template <typename T>                                          \
  const Table<T>& getter() {                                     \
    switch (current_isa()) {                                     \
      default:                                                   \
        CNNEXT_FOR_EACH_ISA(CNNEXT_RETURN_KERNELS_OF, getter)    \
    }                                                            \
  }

// At the foot of <op>_kernel.cpp, inside namespace cnnext::CNNEXT_ISA: makes `getter` for the four dtypes.
#define CNNEXT_INSTANTIATE_KERNELS(Table, getter) \
  template const Table<float>& getter();          \
  template const Table<double>& getter();         \
  template const Table<half_t>& getter();         \
  template const Table<bfloat16_t>& getter();
