// Every step of conv2d's epilogue at once, by the implicit GEMM: what the fused blocks will use.
#include <cstring>

#include "cuda/conv2d_implicit_gemm_launch.cuh"

using namespace cnnext;

namespace {

template <class Config, class T>
void run(const implicit_gemm::TileRow& tile, void* const* arrays) {
  using namespace implicit_gemm;
  using C = compute_t<T>;
  constexpr unsigned kSteps = kBias | kResidual | kRelu | kStatistics;
  const int64_t* n = static_cast<const int64_t*>(arrays[0]);
  const Conv2dShape shape{n[0], n[1], n[2],  n[3],  n[4],  n[5],  n[6],  n[7],
                          n[8], n[9], n[10], n[11], n[12], n[13], n[14], n[15]};
  const bool last = n[16] != 0;
  const Epilogue<T, kSteps> epilogue{static_cast<const T*>(arrays[3]),
                                     static_cast<const T*>(arrays[4]),
                                     static_cast<const C*>(arrays[5]),
                                     static_cast<C*>(arrays[6]),
                                     shape.k,
                                     true};
  GatherProblem problem = gather_problem(shape, Conv2dPass::forward, {last, last});
  const GatherCall<T, Epilogue<T, kSteps>> call{
      shape,    static_cast<const T*>(arrays[1]), static_cast<const T*>(arrays[2]),
      epilogue, static_cast<T*>(arrays[7]),       nullptr};
  launch_gather_tile<Config>(tile, problem, call, false, last);
}

}  // namespace

// arrays: shape and channels_last, input, weight, bias, residual, shift, sums, output.
extern "C" __attribute__((visibility("default"))) void run_epilogue(const char* name, void* const* arrays) {
  using namespace implicit_gemm;
  if (std::strcmp(name, "float16") == 0) return run<Tile64x64Narrow, __half>(kNarrowTile, arrays);
  run<Tile64x32, float>(kTiles[3], arrays);
}
