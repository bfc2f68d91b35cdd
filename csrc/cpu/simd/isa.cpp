#include "isa.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace cnnext {

static Isa widest_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx512 ? Isa::avx512 : avx2 ? Isa::avx2 : Isa::generic;
#else
  return Isa::generic;
#endif
}

Isa current_isa() {
  static const Isa isa = [] {
    const Isa widest = widest_isa();
    const char* wanted = std::getenv("CNNEXT_ISA");
    for (Isa candidate : {Isa::generic, Isa::avx2, Isa::avx512}) {
      if (wanted && candidate < widest && !std::strcmp(wanted, isa_name(candidate))) return candidate;
    }
    return widest;
  }();
  return isa;
}

const char* isa_name(Isa isa) {
  return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "generic";
}

}  // namespace cnnext

// Read from Python by `cnnext info`.
extern "C" __attribute__((visibility("default"))) const char* cnnext_isa() {
  return cnnext::isa_name(cnnext::current_isa());
}
