// The convolution on tensor cores in tf32.
#include "conv2d_tensor_core_weight_launch.cuh"

namespace cnnext::tensor_core {

template void launch_gather(const Conv2dRequest&, const Plan&, bool, const float*, const float*,
                            const Conv2dEpilogue<float>&, float*, void*, cudaStream_t);
template void launch_weight(const Conv2dRequest&, const Plan&, const float*, const float*, float*, float*,
                            cudaStream_t);

}  // namespace cnnext::tensor_core
