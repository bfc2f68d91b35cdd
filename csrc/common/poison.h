// CNNEXT_POISON=1 fills fresh outputs and workspaces with NaN: what a kernel forgets to write is then seen in
// its result. The tests run with it.
#pragma once

#include <cstdlib>

namespace cnnext {

// Every byte of a poisoned buffer; all ones is a NaN in float64, float32, float16 and bfloat16.
inline constexpr int kPoison = 0xff;

inline bool poison_requested() {
  static const bool requested = [] {
    const char* value = std::getenv("CNNEXT_POISON");
    return value && *value == '1';
  }();
  return requested;
}

}  // namespace cnnext
