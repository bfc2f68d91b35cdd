// The meeting of the lanes of a warp.
#pragma once

#include <emulator/site.h>

#include <cstdint>

namespace emulator {

// The current lane waits until all lanes of `mask` have called with the same name, variant, mask and place in
// the source; the last one to come calls `apply` with everybody's operands.
void meet(uint32_t mask, const char* name, int variant, Site site, const void* code, void* operand,
          void (*apply)(void* const* operands, uint32_t mask));

// The same for instructions that the whole warp must execute.
void meet_whole_warp(const char* name, int variant, Site site, const void* code, void* operand,
                     void (*apply)(void* const* operands, uint32_t mask));

}  // namespace emulator
