// What Winograd's algorithm can run, and when it pays. Pure: a request in, an answer out.
#pragma once

#include "conv2d_request.h"
#include "conv2d_winograd_config.h"

namespace cnnext::winograd {

// Null, or why it cannot run at all.
inline const char* refuses(const Conv2dRequest& request) {
  constexpr int64_t kMost = int64_t{1} << 30;
  const Conv2dShape& s = request.shape;
  if (request.dtype != Conv2dDtype::float32) return "it has kernels for float32 only";
  if (!request.allow_winograd) return "Winograd's algorithm is not allowed";
  if (request.pass == Conv2dPass::backward_weight) return "it has no weight gradient";
  if (s.r != 3 || s.s != 3) return "the kernel is not 3x3";
  if (s.stride_h != 1 || s.stride_w != 1 || s.dil_h != 1 || s.dil_w != 1)
    return "it needs stride 1 and dilation 1";
  if (s.groups != 1) return "it has no groups";
  if (larger(larger(s.h, s.w), larger(s.p, s.q)) >= kMost || larger(s.pad_h, s.pad_w) >= kMost ||
      s.c >= kMost / 64 || s.k >= kMost / 64 || s.n >= kMost) {
    return "sizes of 2^24 channels or 2^30 pixels and more";
  }
  return nullptr;
}

// Null, or why another algorithm is faster: with few channels the transforms are more work than they save,
// and tiles that reach over the edge of a small image are thrown away in part.
inline const char* slower(const Conv2dRequest& request, int output) {
  constexpr int64_t kFewChannels = 32, kManyChannels = 64;
  const Conv2dShape& s = request.shape;
  const bool forward = request.pass == Conv2dPass::forward;
  const int64_t rows = forward ? s.p : s.h, columns = forward ? s.q : s.w;
  if (smaller(s.c, s.k) < (output == 4 ? kManyChannels : kFewChannels))
    return "it has few channels to sum over";
  const int64_t covered = round_up<int64_t>(rows, output) * round_up<int64_t>(columns, output);
  const double products =
      static_cast<double>((output + 2) * (output + 2)) / (output * output) * static_cast<double>(covered);
  // Below 9 products a pixel it does less work; the transforms take a part of what is won.
  constexpr double kWorthIt = 5.0;
  if (products > kWorthIt * static_cast<double>(rows * columns))
    return "most of its tiles reach over the edge";
  return nullptr;
}

inline const char* slower_2x3(const Conv2dRequest& request) { return slower(request, 2); }
inline const char* slower_4x3(const Conv2dRequest& request) { return slower(request, 4); }

struct Plan {
  int64_t tiles, chunk;  // of all images; of a chunk, whole tiles of the GEMM
  int64_t padded_c, padded_k;
  int64_t weight_floats, input_floats, output_floats;  // of U, V and M
  bool is_fused;                                       // in one kernel, without V and M
};

inline Plan plan(const Conv2dRequest& request, int output, int64_t chunk_bytes = kChunkBytes,
                 bool may_fuse = true) {
  const Conv2dShape& s = request.shape;
  const bool forward = request.pass == Conv2dPass::forward;
  const int64_t rows = forward ? s.p : s.h, columns = forward ? s.q : s.w;
  const int64_t positions = (output + 2) * (output + 2);
  Plan plan{};
  plan.tiles = s.n * ceil_div<int64_t>(rows, output) * ceil_div<int64_t>(columns, output);
  plan.padded_c = round_up<int64_t>(forward ? s.c : s.k, GemmConfig::kTileC);
  plan.padded_k = round_up<int64_t>(forward ? s.k : s.c, GemmConfig::kTileK);
  const int64_t bytes_of_tile = positions * (plan.padded_c + plan.padded_k) * 4;
  const int64_t wanted = larger<int64_t>(1, chunk_bytes / (bytes_of_tile * GemmConfig::kTileT));
  plan.chunk = smaller(round_up<int64_t>(plan.tiles, GemmConfig::kTileT), wanted * GemmConfig::kTileT);
  plan.weight_floats = positions * plan.padded_c * plan.padded_k;
  plan.is_fused =
      may_fuse && output == 2 && request.limits.shared_bytes_per_block >= FusedConfig::kSharedBytes;
  if (plan.is_fused) return plan;
  plan.input_floats = positions * plan.padded_c * plan.chunk;
  plan.output_floats = positions * plan.padded_k * plan.chunk;
  return plan;
}

}  // namespace cnnext::winograd
