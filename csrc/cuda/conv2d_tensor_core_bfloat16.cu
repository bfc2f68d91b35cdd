// Tensor-core convolutions of bfloat16. A file of its own for each type: they compile side by side.
#include "conv2d_tensor_core_weight_launch.cuh"

namespace cnnext {

template void launch_tensor_core_forward(const TensorCorePlan&, const Conv2dShape&, TensorCoreLayout,
                                         const __nv_bfloat16*, const __nv_bfloat16*, const __nv_bfloat16*,
                                         __nv_bfloat16*, void*, cudaStream_t);
template void launch_tensor_core_backward_input(const TensorCorePlan&, const Conv2dShape&, TensorCoreLayout,
                                                const __nv_bfloat16*, const __nv_bfloat16*, __nv_bfloat16*,
                                                void*, cudaStream_t);
template void launch_tensor_core_backward_weight(const TensorCorePlan&, const Conv2dShape&, TensorCoreLayout,
                                                 const __nv_bfloat16*, const __nv_bfloat16*, __nv_bfloat16*,
                                                 void*, cudaStream_t);

}  // namespace cnnext
