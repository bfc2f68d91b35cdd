// What is counted for each kernel, over all its launches.
#pragma once

#include <emulator/qualifiers.h>

#include <cstdint>
#include <map>
#include <string>

namespace emulator {

// One line for each counter: the struct, the Python dictionary and the sum of two counters are made from it.
// Of all blocks:
#define EMULATOR_COUNTERS_OF_ALL_BLOCKS(X)                                             \
  X(launches)                                                                          \
  X(blocks)                                                                            \
  X(threads)                                                                           \
  X(barriers)                                                                          \
  X(warp_collectives) /* shuffles, votes, reductions, __syncwarp; one for each warp */ \
  X(mma)                                                                               \
  X(mma_flops)                                                                         \
  X(ldmatrix)                                                                          \
  X(async_copies)                                                                      \
  X(async_copy_bytes)                                                                  \
  X(atomics)                                                                           \
  X(declared_flops) /* the useful arithmetic, as the launcher counts it */             \
  X(declared_bytes) /* of the memory the launches declared: what must be moved at least */

// Of the sampled blocks only, and only in a traced build. An ideal sector count is the distinct bytes of a
// request over 32; an ideal wavefront count is one for each group of lanes that the hardware serves at once.
#define EMULATOR_COUNTERS_OF_SAMPLED_BLOCKS(X) \
  X(sampled_blocks)                            \
  X(global_load_requests)                      \
  X(global_load_sectors)                       \
  X(global_load_ideal_sectors)                 \
  X(global_load_bytes)                         \
  X(global_store_requests)                     \
  X(global_store_sectors)                      \
  X(global_store_ideal_sectors)                \
  X(global_store_bytes)                        \
  X(shared_load_requests)                      \
  X(shared_load_wavefronts)                    \
  X(shared_load_ideal_wavefronts)              \
  X(shared_store_requests)                     \
  X(shared_store_wavefronts)                   \
  X(shared_store_ideal_wavefronts)

#define EMULATOR_COUNTERS(X)         \
  EMULATOR_COUNTERS_OF_ALL_BLOCKS(X) \
  EMULATOR_COUNTERS_OF_SAMPLED_BLOCKS(X)

struct Counters {
#define EMULATOR_DECLARE(name) uint64_t name = 0;
  EMULATOR_COUNTERS(EMULATOR_DECLARE)
#undef EMULATOR_DECLARE
};

// By the kernel's name, since the last reset.
EMULATOR_API std::map<std::string, Counters>& counters();

}  // namespace emulator
