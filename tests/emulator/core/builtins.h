// The built-in variables as the scheduler sees them: kernels see them const (see emulator/synchronize.h).
#pragma once

#include <vector_types.h>

namespace emulator {

void set_thread_index(uint3 index);
void set_block_index(uint3 index);
void set_dimensions(dim3 grid, dim3 block);

}  // namespace emulator
