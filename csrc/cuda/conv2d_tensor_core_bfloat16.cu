// The convolution on tensor cores in bfloat16.
#include "conv2d_tensor_core_weight_launch.cuh"

namespace cnnext::tensor_core {

template void launch_gather(const Conv2dRequest&, const Plan&, bool, const __nv_bfloat16*,
                            const __nv_bfloat16*, const Conv2dEpilogue<__nv_bfloat16>&, __nv_bfloat16*, void*,
                            cudaStream_t);
template void launch_weight(const Conv2dRequest&, const Plan&, const __nv_bfloat16*, const __nv_bfloat16*,
                            float*, float*, cudaStream_t);

}  // namespace cnnext::tensor_core
