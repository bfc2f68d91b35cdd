// The convolution by Winograd's algorithm, as conv2d.cu calls it.
#pragma once

#include "conv2d_epilogue.cuh"
#include "conv2d_prologue.cuh"
#include "conv2d_winograd_choose.h"

namespace cnnext::winograd {

// Forward and input gradient with output tiles of `output` × `output`, 2 or 4. `workspace`: room for the
// plan's U, V and M, one behind the other, aligned to 16 bytes.
void launch_gather(const Conv2dRequest& request, const Plan& plan, int output, bool weight_channels_last,
                   const float* source, const float* weight, const Conv2dPrologue<float>& prologue,
                   const Conv2dEpilogue<float>& epilogue, float* destination, float* workspace,
                   cudaStream_t stream);

}  // namespace cnnext::winograd
