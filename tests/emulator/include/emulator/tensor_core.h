// mma.sync and ldmatrix, with the fragment layouts of the PTX ISA ("Warp-level matrix instructions").
#pragma once

#include <emulator/qualifiers.h>
#include <emulator/site.h>

#include <cstdint>

namespace emulator {

// D[16][8] = A[16][K] · B[K][8] + C[16][8]; C and D in fp32.
enum class Mma { kF16K16, kBf16K16, kF16K8, kTf32K8 };

EMULATOR_API void mma(Mma kind, float* d, const uint32_t* a, const uint32_t* b, const float* c, Site site);

// `matrices` (1, 2 or 4) tiles of 8 rows × 16 bytes; lane 8·i + j gives the address of row j of tile i.
EMULATOR_API void load_matrix(int matrices, bool transposed, uint32_t* registers, const void* row, Site site);

}  // namespace emulator
