// The convolution on tensor cores in float16.
#include "conv2d_tensor_core_weight_launch.cuh"

namespace cnnext::tensor_core {

template void launch_gather(const Conv2dRequest&, const Plan&, bool, const __half*, const __half*,
                            const Conv2dEpilogue<__half>&, __half*, void*, cudaStream_t);
template void launch_weight(const Conv2dRequest&, const Plan&, const __half*, const __half*, float*, float*,
                            cudaStream_t);

}  // namespace cnnext::tensor_core
