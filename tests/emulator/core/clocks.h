// Who has synchronised with whom: vector clocks in two levels, exact for barriers of whole warps (named ones
// too) and for __syncwarp of any mask. They only ever grow, so a new block needs no reset; memory of another
// block is told apart by the block's serial number.
#pragma once

#include <cstdint>

namespace emulator {

struct Clocks {
  // known[w][v]: the time of warp v that warp w has seen at barriers; known[w][w] is w's own time.
  uint32_t known[32][32] = {};
  // lanes[w][i][j]: the time of lane j that lane i of warp w has seen at __syncwarp.
  uint32_t lanes[32][32][32] = {};

  // The warps of the mask have met at a barrier: each moves on and learns what the others know.
  void join_warps(uint32_t mask) { join(known, mask); }

  void join_lanes(int warp, uint32_t mask) { join(lanes[warp], mask); }

 private:
  static void join(uint32_t (&table)[32][32], uint32_t mask) {
    uint32_t merged[32] = {};
    for (int i = 0; i < 32; ++i) {
      if (mask >> i & 1) {
        ++table[i][i];
        for (int j = 0; j < 32; ++j) {
          merged[j] = merged[j] < table[i][j] ? table[i][j] : merged[j];
        }
      }
    }
    for (int i = 0; i < 32; ++i) {
      if (mask >> i & 1) {
        for (int j = 0; j < 32; ++j) {
          table[i][j] = merged[j];
        }
      }
    }
  }
};

}  // namespace emulator
