// From single accesses to what the memory system sees: requests of a warp, their sectors and wavefronts.
#pragma once

#include <cstdint>

namespace emulator {

struct LaneAccess {
  int lane;
  uintptr_t address;
  int bytes;
};

// Counts the accesses logged since the last call, for every warp of the block. The n-th time that lanes of a
// warp pass the same instruction since then is taken for one request.
void count_logged_accesses();

// The wavefronts of one request to shared memory; `ideal` receives those of one without bank conflicts.
int shared_wavefronts(const LaneAccess* accesses, int count, int& ideal);

}  // namespace emulator
