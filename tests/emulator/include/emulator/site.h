// A place in the source. Barriers and warp collectives are told apart by it, not by their code address:
// an optimiser may copy one barrier of the source into several branches.
#pragma once

namespace emulator {

struct Site {
  const char* file = "";
  int line = 0;

  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

}  // namespace emulator
