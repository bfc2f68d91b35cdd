// What the tensor cores can run, and with which tile. Pure: a request in, a plan out.
#pragma once

#include <cstring>

#include "conv2d_request.h"
#include "conv2d_tensor_core_config.h"
#include "conv2d_tensor_core_geometry.h"

namespace cnnext::tensor_core {

// float32 is multiplied as tf32.
inline int64_t element_bytes(Conv2dDtype dtype) { return dtype == Conv2dDtype::float32 ? 4 : 2; }

// The implicit GEMM of a pass: one for each group and, of a strided input gradient, for each phase.
struct Gemm {
  int64_t m, n, k;  // of the largest phase
  int64_t count;
};

inline Gemm gemm_of(const Conv2dRequest& request) {
  const Conv2dShape& s = request.shape;
  if (request.pass == Conv2dPass::forward) return {s.gemm_m(), s.gemm_n(), s.gemm_k(), s.groups};
  if (request.pass == Conv2dPass::backward_weight) return {s.group_k(), s.gemm_k(), s.gemm_m(), s.groups};
  const int64_t step_h = s.stride_h / greatest_common_divisor(s.stride_h, s.dil_h);
  const int64_t step_w = s.stride_w / greatest_common_divisor(s.stride_w, s.dil_w);
  const int64_t pixels = s.n * ceil_div(s.h, s.stride_h) * ceil_div(s.w, s.stride_w);
  return {pixels, s.group_c(), ceil_div(s.r, step_h) * ceil_div(s.s, step_w) * s.group_k(),
          s.groups * s.stride_h * s.stride_w};
}

// The most elements of the source between the first and the last pixel of a block.
inline int64_t block_span(const Conv2dShape& s, Conv2dPass pass) {
  const bool backward = pass == Conv2dPass::backward_input;
  const int64_t image = larger(s.k * s.p * s.q, s.c * s.h * s.w);
  const int64_t pixels =
      backward ? larger<int64_t>(1, s.h / s.stride_h) * larger<int64_t>(1, s.w / s.stride_w) : s.p * s.q;
  return (ceil_div<int64_t>(kThreads, larger<int64_t>(1, pixels)) + 1) * image;
}

// Null, or why it cannot run at all.
inline const char* refuses(const Conv2dRequest& request) {
  constexpr int64_t kMost = int64_t{1} << 31, kMostGridY = 65535;
  const Conv2dShape& s = request.shape;
  const Conv2dPass pass = request.pass;
  const Gemm gemm = gemm_of(request);
  const bool is_half = request.dtype == Conv2dDtype::float16;
  if (request.limits.architecture < 75) return "tensor cores by mma.sync need compute capability 7.5";
  if (request.dtype == Conv2dDtype::float64) return "it has no kernels for float64";
  if (request.dtype == Conv2dDtype::float32 && !request.allow_tf32) return "TF32 is not allowed";
  if (!is_half && request.limits.architecture < 80) {
    return "tensor cores multiply bfloat16 and TF32 from compute capability 8.0 on";
  }
  if (s.r * s.s > kMaxTaps || s.r + s.s > kMaxTapBits) return "the kernel has more taps than its table";
  if (pass == Conv2dPass::backward_input && larger(s.stride_h, s.stride_w) > kMaxPhases) {
    return "the input gradient has more phases than the kernel's table of 8 in each direction";
  }
  for (int64_t length : {s.h, s.w, s.p, s.q, s.pad_h, s.pad_w, s.dil_h * s.r, s.dil_w * s.s, gemm.k}) {
    if (length >= kMost / 4) return "pixels or products of an output are counted in 32 bits";
  }
  if (s.n * s.h * s.w >= kMost - kThreads || s.n * s.p * s.q >= kMost - kThreads) {
    return "pixels or products of an output are counted in 32 bits";
  }
  if (block_span(s, pass) >= kMost / 4) return "the images of a block span 2^29 elements or more";
  if (gemm.count > kMostGridY) return "groups and phases are more than a grid's 65535";
  return nullptr;
}

// Null, or why another algorithm is the faster one. An mma has 8 columns.
inline const char* slower(const Conv2dRequest& request) {
  constexpr int64_t kFewChannels = 8;
  const Conv2dShape& s = request.shape;
  const int64_t channels = request.pass == Conv2dPass::backward_input ? s.group_c() : s.group_k();
  return channels < kFewChannels ? "a group has fewer than 8 output channels, the columns of an mma"
                                 : nullptr;
}

// Whether activations are copied by 16 bytes: channels_last, and channels in whole chunks. `aligned`: so are
// the addresses.
inline bool copies_vectors(const Conv2dRequest& request, bool aligned) {
  const int64_t per_chunk = kChunkBytes / element_bytes(request.dtype);
  const bool whole_c = request.shape.group_c() % per_chunk == 0;
  const bool whole_k = request.shape.group_k() % per_chunk == 0;
  if (!request.channels_last || !aligned) return false;
  if (request.pass == Conv2dPass::backward_weight) return whole_c && whole_k;
  return request.pass == Conv2dPass::forward ? whole_c : whole_k;
}

inline const char* tile_refuses(const Conv2dRequest& request, const TileRow& tile, bool by_vectors) {
  const bool weight = request.pass == Conv2dPass::backward_weight;
  if (weight && by_vectors && !tile.weight_by_vectors) return "it has no kernel for weight gradients";
  if (!by_vectors && !(weight ? tile.weight_gathers : tile.gathers)) {
    return "it has no kernel that gathers value by value";
  }
  if (tile.needs_async_copy && request.limits.architecture < 80) {
    return "it needs cp.async, of compute capability 8.0";
  }
  return nullptr;
}

inline constexpr int kBlocksAtOnce = 2;  // that a multiprocessor holds

inline int64_t tiles_of(const Gemm& gemm, const TileRow& tile) {
  return gemm.count * ceil_div<int64_t>(gemm.m, tile.tile_m) * ceil_div<int64_t>(gemm.n, tile.tile_n);
}

// The parts into which the pixels of a weight gradient are divided: as many as fill the device once, of some
// steps at least, and of so few images that 32 bits count their elements. None is empty.
struct Splits {
  int64_t count, steps;  // steps of a split
};

inline Splits splits_of(const Conv2dRequest& request, const TileRow& tile) {
  constexpr int64_t kLeastSteps = 8, kMostElements = int64_t{1} << 30;
  const Conv2dShape& s = request.shape;
  const Gemm gemm = gemm_of(request);
  const int64_t tile_k = tile.row_bytes / element_bytes(request.dtype);
  const int64_t steps = larger<int64_t>(1, ceil_div(gemm.k, tile_k));
  const int64_t wanted =
      larger<int64_t>(1, int64_t{kBlocksAtOnce} * request.limits.multiprocessors / tiles_of(gemm, tile));
  const int64_t image = larger<int64_t>(1, larger(s.c * s.h * s.w, s.k * s.p * s.q));
  const int64_t most_steps =
      larger<int64_t>(1, larger<int64_t>(1, kMostElements / image) * s.p * s.q / tile_k);
  const int64_t per_split = smaller(larger(ceil_div(steps, wanted), kLeastSteps), most_steps);
  return {ceil_div(steps, per_split), per_split};
}

// Multiplications on the critical path: the blocks that a multiprocessor computes one after the other, each
// as large as its tile. Small tiles read more of shared memory for each mma, which the last factor estimates
// from the instructions of their main loops.
inline double cost(const Conv2dRequest& request, const TileRow& tile) {
  const Gemm gemm = gemm_of(request);
  const bool weight = request.pass == Conv2dPass::backward_weight;
  const Splits splits = weight ? splits_of(request, tile) : Splits{1, 1};
  const int64_t k = weight ? splits.steps * tile.row_bytes : gemm.k;
  const int64_t at_once = int64_t{kBlocksAtOnce} * request.limits.multiprocessors;
  const int64_t rounds = ceil_div(splits.count * tiles_of(gemm, tile), at_once);
  const double overhead = 1.0 + 24.0 / tile.tile_m + 24.0 / tile.tile_n;
  return static_cast<double>(rounds * tile.tile_m * tile.tile_n) * static_cast<double>(k) * overhead;
}

struct Plan {
  int tile;  // row of kTiles
  bool by_vectors;
  int splits;            // of the pixels, in a weight gradient
  int64_t packed_bytes;  // forward and input gradient: the weights as the kernel wants them
};

inline int64_t packed_bytes(const Conv2dRequest& request, const TileRow& tile) {
  if (request.pass == Conv2dPass::backward_weight) return 0;
  const Gemm gemm = gemm_of(request);
  const int64_t steps = ceil_div<int64_t>(gemm.k * element_bytes(request.dtype), tile.row_bytes);
  return gemm.count * round_up<int64_t>(gemm.n, tile.tile_n) * steps * tile.row_bytes;
}

// The tile of least cost, or the one that is `wanted` if it can run. `aligned`: the activations start at
// multiples of 16 bytes.
inline Plan choose_tile(const Conv2dRequest& request, bool aligned, const char* wanted,
                        std::vector<Conv2dRejection>* rejections) {
  const bool by_vectors = copies_vectors(request, aligned);
  int best = -1;
  bool best_is_wanted = false;
  for (int tile = 0; tile < kTileCount; ++tile) {
    if (tile_refuses(request, kTiles[tile], by_vectors) != nullptr) continue;
    const bool is_wanted = wanted != nullptr && std::strcmp(wanted, kTiles[tile].name) == 0;
    const bool is_better = best < 0 || cost(request, kTiles[tile]) < cost(request, kTiles[best]);
    if (is_wanted || (is_better && !best_is_wanted)) best = tile, best_is_wanted = is_wanted;
  }
  for (int tile = 0; rejections != nullptr && tile < kTileCount; ++tile) {
    if (tile == best) continue;
    const char* reason = tile_refuses(request, kTiles[tile], by_vectors);
    const double ratio = cost(request, kTiles[tile]) / cost(request, kTiles[best]);
    rejections->push_back({std::string("tensor_core:") + kTiles[tile].name,
                           reason != nullptr ? reason
                           : best_is_wanted
                               ? "another tile was asked for"
                               : "it takes " + std::to_string(ratio) + " times as long by estimate"});
  }
  return {best, by_vectors, static_cast<int>(splits_of(request, kTiles[best]).count),
          packed_bytes(request, kTiles[best])};
}

}  // namespace cnnext::tensor_core
