// Launches of Winograd's algorithm.
#include "conv2d_winograd.h"
#include "conv2d_winograd_fused_kernel.cuh"
#include "conv2d_winograd_gemm_kernel.cuh"
#include "conv2d_winograd_kernel.cuh"
#include "device/launch.cuh"

namespace cnnext::winograd {
namespace {

Problem problem_of(const Conv2dRequest& request, const Plan& plan, int output, bool weight_channels_last) {
  const Conv2dShape& s = request.shape;
  const bool forward = request.pass == Conv2dPass::forward;
  const auto narrow = [](int64_t value) { return static_cast<int>(value); };
  const ImageStrides input = image_strides(s.c, s.h, s.w, request.channels_last);
  const ImageStrides result = image_strides(s.k, s.p, s.q, request.channels_last);
  const WeightStrides w = weight_strides(s.c, 3, 3, weight_channels_last);
  Problem problem{};
  problem.images = narrow(s.n);
  problem.source_h = narrow(forward ? s.h : s.p), problem.source_w = narrow(forward ? s.w : s.q);
  problem.destination_h = narrow(forward ? s.p : s.h), problem.destination_w = narrow(forward ? s.q : s.w);
  problem.source_channels = narrow(forward ? s.c : s.k);
  problem.destination_channels = narrow(forward ? s.k : s.c);
  problem.pad_h = narrow(forward ? s.pad_h : 2 - s.pad_h);
  problem.pad_w = narrow(forward ? s.pad_w : 2 - s.pad_w);
  problem.tile_rows = ceil_div(problem.destination_h, output);
  problem.tile_columns = ceil_div(problem.destination_w, output);
  problem.padded_c = narrow(plan.padded_c), problem.padded_k = narrow(plan.padded_k);
  problem.source_strides = forward ? input : result;
  problem.destination_strides = forward ? result : input;
  problem.weight_source_stride = forward ? w.c : w.k;
  problem.weight_destination_stride = forward ? w.k : w.c;
  problem.weight_r_stride = w.r, problem.weight_s_stride = w.s;
  problem.turned = !forward;
  return problem;
}

struct Buffers {
  const float *source, *weight;
  float *destination, *u, *v, *m;
};

dim3 transform_grid(int64_t tiles, int64_t channels) {
  return dim3(static_cast<unsigned>(tiles / kBlockTiles),
              static_cast<unsigned>(ceil_div<int64_t>(channels, kBlockChannels)));
}

// The tiles [first, first + problem.padded_t), or what is there of them.
template <class T>
void launch_chunk(const Conv2dRequest& request, const Problem& problem, const Buffers& buffers, int64_t first,
                  bool is_whole, const Conv2dPrologue<float>& prologue, const Conv2dEpilogue<float>& epilogue,
                  cudaStream_t stream) {
  using namespace device;
  constexpr int kPositions = T::kTile * T::kTile;
  const Conv2dShape& s = request.shape;
  const auto text = [&] { return conv2d_text(s); };
  const bool forward = request.pass == Conv2dPass::forward;
  const int64_t inputs = s.n * s.c * s.h * s.w, results = s.n * s.k * s.p * s.q;
  const int64_t c = problem.padded_c, k = problem.padded_k, t = problem.padded_t;
  const bool small = T::kOutput == 2;
  launch({small ? "conv2d_winograd_2x3_input_kernel" : "conv2d_winograd_4x3_input_kernel",
          transform_grid(t, c), dim3(kTransformThreads), 0, stream},
         {input("source", buffers.source, forward ? inputs : results), input("center", prologue.center, s.c),
          input("scale", prologue.scale, s.c), input("offset", prologue.offset, s.c),
          output("V", buffers.v, kPositions * c * t)},
         text, conv2d_winograd_input_kernel<T>, problem, buffers.source, prologue, buffers.v, first);
  const dim3 gemm_grid(static_cast<unsigned>(t / GemmConfig::kTileT),
                       static_cast<unsigned>(k / GemmConfig::kTileK), kPositions);
  launch({small ? "conv2d_winograd_2x3_gemm_kernel" : "conv2d_winograd_4x3_gemm_kernel", gemm_grid,
          dim3(GemmConfig::kThreads), GemmConfig::kSharedBytes, stream,
          2.0 * kPositions * static_cast<double>(c) * static_cast<double>(k) * static_cast<double>(t)},
         {input("U", buffers.u, kPositions * c * k), input("V", buffers.v, kPositions * c * t),
          output("M", buffers.m, kPositions * k * t)},
         text, conv2d_winograd_gemm_kernel, buffers.u, buffers.v, buffers.m, problem.padded_c,
         problem.padded_k, problem.padded_t);
  // One of several chunks writes its part of the destination.
  const int64_t outputs = forward ? results : inputs;
  const Memory destination = is_whole ? output("destination", buffers.destination, outputs)
                                      : inout("destination", buffers.destination, outputs);
  launch({small ? "conv2d_winograd_2x3_output_kernel" : "conv2d_winograd_4x3_output_kernel",
          transform_grid(t, k), dim3(kTransformThreads), 0, stream},
         {input("M", buffers.m, kPositions * k * t), input("bias", epilogue.bias, s.k),
          input("residual", epilogue.residual, outputs), destination},
         text, conv2d_winograd_output_kernel<T>, problem, buffers.m, buffers.destination, first, epilogue);
}

void launch_fused(const Conv2dRequest& request, const Plan& plan, const Problem& problem,
                  const Buffers& buffers, const Conv2dPrologue<float>& prologue,
                  const Conv2dEpilogue<float>& epilogue, cudaStream_t stream) {
  using namespace device;
  const Conv2dShape& s = request.shape;
  const bool forward = request.pass == Conv2dPass::forward;
  const int64_t inputs = s.n * s.c * s.h * s.w, results = s.n * s.k * s.p * s.q;
  const dim3 grid(static_cast<unsigned>(ceil_div<int64_t>(plan.tiles, FusedConfig::kTileT)),
                  static_cast<unsigned>(plan.padded_k / FusedConfig::kTileK));
  launch(
      {"conv2d_winograd_2x3_fused_kernel", grid, dim3(FusedConfig::kThreads), FusedConfig::kSharedBytes,
       stream, conv2d_flops(s)},
      {input("source", buffers.source, forward ? inputs : results), input("center", prologue.center, s.c),
       input("scale", prologue.scale, s.c), input("offset", prologue.offset, s.c),
       input("U", buffers.u, plan.weight_floats), input("bias", epilogue.bias, s.k),
       input("residual", epilogue.residual, forward ? results : inputs),
       output("destination", buffers.destination, forward ? results : inputs)},
      [&] { return conv2d_text(s); }, conv2d_winograd_2x3_fused_kernel, problem, buffers.source, prologue,
      buffers.u, buffers.destination, epilogue);
}

template <class T>
void launch_all(const Conv2dRequest& request, const Plan& plan, Problem problem, const Buffers& buffers,
                const Conv2dPrologue<float>& prologue, const Conv2dEpilogue<float>& epilogue,
                cudaStream_t stream) {
  using namespace device;
  const int64_t weights = plan.padded_c * plan.padded_k;
  launch(
      {T::kOutput == 2 ? "conv2d_winograd_2x3_weight_kernel" : "conv2d_winograd_4x3_weight_kernel",
       dim3(static_cast<unsigned>(ceil_div<int64_t>(weights, kTransformThreads))), dim3(kTransformThreads), 0,
       stream},
      {input("weight", buffers.weight, request.shape.k * request.shape.gemm_k()),
       output("U", buffers.u, plan.weight_floats)},
      [&] { return conv2d_text(request.shape); }, conv2d_winograd_weight_kernel<T>, problem, buffers.weight,
      buffers.u);
  if (plan.is_fused) return launch_fused(request, plan, problem, buffers, prologue, epilogue, stream);
  for (int64_t first = 0; first < plan.tiles; first += plan.chunk) {
    const int64_t left = round_up<int64_t>(plan.tiles - first, GemmConfig::kTileT);
    problem.padded_t = static_cast<int>(smaller(plan.chunk, left));
    launch_chunk<T>(request, problem, buffers, first, plan.chunk >= plan.tiles, prologue, epilogue, stream);
  }
}

}  // namespace

void launch_gather(const Conv2dRequest& request, const Plan& plan, int output, bool weight_channels_last,
                   const float* source, const float* weight, const Conv2dPrologue<float>& prologue,
                   const Conv2dEpilogue<float>& epilogue, float* destination, float* workspace,
                   cudaStream_t stream) {
  if (plan.tiles == 0) return;
  const Problem problem = problem_of(request, plan, output, weight_channels_last);
  float* v = workspace + plan.weight_floats;
  const Buffers buffers{source, weight, destination, workspace, v, v + plan.input_floats};
  if (output == 2) {
    launch_all<Transform<2>>(request, plan, problem, buffers, prologue, epilogue, stream);
  } else {
    launch_all<Transform<4>>(request, plan, problem, buffers, prologue, epilogue, stream);
  }
}

}  // namespace cnnext::winograd
