#include "conv2d_implicit_gemm_launch.cuh"

namespace cnnext::implicit_gemm {

CNNEXT_INSTANTIATE_IMPLICIT_GEMM(float)

}  // namespace cnnext::implicit_gemm
