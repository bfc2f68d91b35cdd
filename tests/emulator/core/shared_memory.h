// The shared memory of the one block that runs.
#pragma once

#include <cstddef>

namespace emulator {

// Lays out the launch's dynamic shared memory as a region of its own; static objects follow as kernels ask
// for them.
void open_shared_memory(size_t dynamic_bytes);

// At the start of a block: NaN patterns everywhere, and no memory of who wrote what.
void poison_shared_memory();

}  // namespace emulator
