#include "conv2d_implicit_gemm_launch.cuh"

namespace cnnext::implicit_gemm {

CNNEXT_INSTANTIATE_IMPLICIT_GEMM(__half)

}  // namespace cnnext::implicit_gemm
