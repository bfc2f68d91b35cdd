// CUDA's declaration qualifiers, for a compiler that has one address space and one kind of function.
#pragma once

// CUDA's host headers define some of these too; ours must win.
#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __launch_bounds__
#undef __grid_constant__
#undef __forceinline__
#undef __noinline__

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __launch_bounds__(...)
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))

// A static `__shared__` variable inside a template silently loses its section under g++, and with it every
// check. All shared memory is reached through device/shared_memory.cuh, so the bare qualifier is a
// compile-time error here.
#define __shared__ shared_memory_is_reached_through_device_shared_memory_cuh

#define EMULATOR_API __attribute__((visibility("default")))
