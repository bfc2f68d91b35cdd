#include "conv2d_implicit_gemm_launch.cuh"

namespace cnnext::implicit_gemm {

CNNEXT_INSTANTIATE_IMPLICIT_GEMM(double)

}  // namespace cnnext::implicit_gemm
