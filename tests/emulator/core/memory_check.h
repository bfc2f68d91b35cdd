// Every access that traced code makes comes through here: is it inside something the launch declared, has the
// memory been written, does another thread use it in the same barrier interval?
#pragma once

#include <emulator/launch.h>
#include <emulator/qualifiers.h>

#include <cstddef>
#include <cstdint>

namespace emulator {

enum class Access {
  kRead,
  kWrite,
  kAtomic,
  kCopyIssued,   // the destination of a cp.async, at its issue: a write whose value is not there yet
  kCopyArrived,  // the same, at the wait
};

// An access by the current thread. Alignment is checked always, the rest while tracing.
EMULATOR_API void check_access(const void* memory, int bytes, Access access, const void* code);

// The current thread's view of an access that another lane of its warp asked for (ldmatrix rows).
void check_access_of_lane(int lane, const void* memory, int bytes, const void* code);

bool tracing();

// Around each launch, and at the start of each block.
void open_launch_memory(const Launch& launch);
void open_block_memory();
void close_launch_memory();

// Raises if a launch left a part of an output unwritten.
void check_outputs_written();

// __threadfence by the current thread: later blocks may read what this one has written, once they do an
// atomic.
void publish_block();

}  // namespace emulator
