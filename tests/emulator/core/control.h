// What a test may set and ask, from C++ or through bindings.cpp from Python.
#pragma once

#include <emulator/qualifiers.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "counters.h"
#include "fault.h"
#include "regions.h"

namespace emulator {

// In which order the warps of a block, and the lanes of a warp, get their turn: "forward", "reversed" or
// "random". Throws std::invalid_argument for another name.
EMULATOR_API void set_order(const std::string& name, unsigned seed);

// Checks and counters on or off, for code compiled for tracing.
EMULATOR_API void set_tracing(bool on);

// How many blocks of a launch, evenly spaced, count sectors and wavefronts; 0: all.
EMULATOR_API void set_sampled_blocks(int count);

// A kernel that has been launched since the process began: its library, how far into it the kernel lies, and
// the largest block it was launched with.
struct LaunchedFunction {
  std::string library;
  uint64_t offset;
  uint64_t threads, dynamic_shared_bytes;
};
EMULATOR_API std::vector<LaunchedFunction> launched_functions();

}  // namespace emulator
