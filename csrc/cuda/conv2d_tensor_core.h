// The tensor-core convolution as conv2d.cu sees it: what it refuses, which tile it takes, how much memory it
// needs besides the tensors, and its launches. The choice is a pure function of sizes, layout and device.
#pragma once

#include <string>

#include "conv2d_tensor_core_config.h"
#include "conv2d_tensor_core_geometry.h"
#include "device/device_limits.cuh"

namespace cnnext {

// What the multiplications are done in. tf32 takes and gives float32.
enum class TensorCoreType { float16, bfloat16, tf32 };

constexpr int tensor_core_element_bytes(TensorCoreType type) { return type == TensorCoreType::tf32 ? 4 : 2; }

// Null, or why the tensor cores cannot compute this pass.
const char* tensor_core_refuses(const Conv2dShape& shape, Conv2dPass pass, TensorCoreType type,
                                const device::DeviceLimits& limits);

struct TensorCorePlan {
  const tensor_core::TileRow* tile;
  bool by_vectors;          // activations are copied by 16 bytes: channels_last, channels in whole chunks
  bool has_async_copy;      // of the device
  int splits;               // backward_weight: parts into which the pixels are divided
  int64_t workspace_bytes;  // forward, backward_input: packed weights; backward_weight: partial sums
};

// For a case that is not refused. `aligned`: the activations start at multiples of 16 bytes. `tile` names one
// of kTiles, for tests and measurements; null: the one with the least cost.
TensorCorePlan plan_tensor_core(const Conv2dShape& shape, Conv2dPass pass, TensorCoreType type,
                                bool channels_last, bool aligned, const device::DeviceLimits& limits,
                                const char* tile = nullptr);

// The tiles and what speaks against each, a line for each; the chosen one first.
std::string explain_tensor_core(const Conv2dShape& shape, Conv2dPass pass, TensorCoreType type,
                                bool channels_last, bool aligned, const device::DeviceLimits& limits);

// The tensors of a call: dense, activations NCHW or NHWC, the weight [k][c/g][r][s] or [k][r][s][c/g]. T is
// __half, __nv_bfloat16 or, for tf32, float; `workspace` is of the plan's bytes, aligned to 16.
struct TensorCoreLayout {
  bool channels_last, weight_channels_last;
};

template <class T>
void launch_tensor_core_forward(const TensorCorePlan& plan, const Conv2dShape& shape, TensorCoreLayout layout,
                                const T* x, const T* weight, const T* bias, T* y, void* workspace,
                                cudaStream_t stream);
template <class T>
void launch_tensor_core_backward_input(const TensorCorePlan& plan, const Conv2dShape& shape,
                                       TensorCoreLayout layout, const T* grad, const T* weight, T* grad_x,
                                       void* workspace, cudaStream_t stream);
// grad_weight is written as [k][c/g][r][s], whatever the layout of the weight.
template <class T>
void launch_tensor_core_backward_weight(const TensorCorePlan& plan, const Conv2dShape& shape,
                                        TensorCoreLayout layout, const T* grad, const T* x, T* grad_weight,
                                        void* workspace, cudaStream_t stream);

}  // namespace cnnext
