// The emulator's stand-in for <cuda_runtime.h>: everything a kernel may use, for a host compiler.
// Included by csrc/cuda/device/platform.cuh when nvcc is not the compiler; kernels never include it
// themselves.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <driver_types.h>
#include <emulator/atomics.h>
#include <emulator/half_math.h>
#include <emulator/launch.h>
#include <emulator/math.h>
#include <emulator/memory.h>
#include <emulator/qualifiers.h>
#include <emulator/synchronize.h>
#include <emulator/tensor_core.h>
#include <emulator/warp.h>
#include <vector_functions.h>
#include <vector_types.h>
