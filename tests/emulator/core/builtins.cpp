#include "builtins.h"

#include <emulator/qualifiers.h>

// Not const here, hence without the header that declares them for kernels.
EMULATOR_API uint3 threadIdx{};
EMULATOR_API uint3 blockIdx{};
EMULATOR_API dim3 blockDim{};
EMULATOR_API dim3 gridDim{};

namespace emulator {

void set_thread_index(uint3 index) { threadIdx = index; }

void set_block_index(uint3 index) { blockIdx = index; }

void set_dimensions(dim3 grid, dim3 block) {
  gridDim = grid;
  blockDim = block;
}

}  // namespace emulator
