// Which fiber runs.
#pragma once

#include <emulator/site.h>

#include "machine.h"

namespace emulator {

// Runs the current block until all its threads have returned or a fault is recorded in the machine.
void run_block();

// The current thread waits; returns when another one has made it ready.
void suspend(ThreadState state, const char* waits_in, Site site, const void* code);

void make_ready(Thread& thread);

// Leaves every fiber of the block where it is and goes back to the caller of run_block().
[[noreturn]] void abandon_block();

}  // namespace emulator
