// What the tensor-core convolution can do, and with which tile: pure functions of sizes, layout and device.
#include <algorithm>
#include <stdexcept>

#include "conv2d_tensor_core.h"

namespace cnnext {
namespace {

using namespace tensor_core;

// The implicit GEMM of a pass: one for each group and, of a strided input gradient, for each phase.
struct Gemm {
  int64_t m, n, k;  // of the largest phase
  int64_t count;
};

Gemm gemm_of(const Conv2dShape& s, Conv2dPass pass) {
  const auto largest = [](int64_t size, int64_t stride) { return ceil_div(size, stride); };
  switch (pass) {
    case Conv2dPass::forward:
      return {s.gemm_m(), s.gemm_n(), s.gemm_k(), s.groups};
    case Conv2dPass::backward_input: {
      const int64_t step_h = s.stride_h / greatest_common_divisor(s.stride_h, s.dil_h);
      const int64_t step_w = s.stride_w / greatest_common_divisor(s.stride_w, s.dil_w);
      const int64_t pixels = s.n * largest(s.h, s.stride_h) * largest(s.w, s.stride_w);
      return {pixels, s.group_c(), largest(s.r, step_h) * largest(s.s, step_w) * s.group_k(),
              s.groups * s.stride_h * s.stride_w};
    }
    default:
      return {s.group_k(), s.gemm_k(), s.gemm_m(), s.groups};
  }
}

constexpr int kBlocksAtOnce = 2;  // that a multiprocessor holds

// How the pixels of a weight gradient are divided: into as many parts as fill the device once, of some steps
// at least, and of so few images that 32 bits count their elements.
struct Splits {
  int64_t count, steps;  // steps of a split
};

Splits splits_of(const Conv2dShape& s, const Gemm& gemm, const TileRow& tile, TensorCoreType type,
                 int multiprocessors) {
  constexpr int64_t kLeastSteps = 8, kMostElements = int64_t{1} << 30;
  const int64_t tile_k = tile.row_bytes / tensor_core_element_bytes(type);
  const int64_t steps = std::max<int64_t>(1, ceil_div(gemm.k, tile_k));
  const int64_t blocks =
      gemm.count * ceil_div(gemm.m, int64_t{tile.tile_m}) * ceil_div(gemm.n, int64_t{tile.tile_n});
  const int64_t wanted = std::max<int64_t>(1, int64_t{kBlocksAtOnce} * multiprocessors / blocks);
  const int64_t images =
      std::max<int64_t>(1, kMostElements / std::max({s.c * s.h * s.w, s.k * s.p * s.q, int64_t{1}}));
  const int64_t most_steps = std::max<int64_t>(1, images * s.p * s.q / tile_k);
  const int64_t per_split = std::min(std::max(ceil_div(steps, wanted), kLeastSteps), most_steps);
  return {ceil_div(steps, per_split), per_split};
}

int64_t workspace_bytes(const Gemm& gemm, const TileRow& tile, TensorCoreType type) {
  const int64_t steps = ceil_div(gemm.k * tensor_core_element_bytes(type), int64_t{tile.row_bytes});
  return gemm.count * round_up(gemm.n, int64_t{tile.tile_n}) * steps * tile.row_bytes;
}

int64_t partial_bytes(const Gemm& gemm, const TileRow& tile, const Splits& splits) {
  const int64_t sums = round_up(gemm.m, int64_t{tile.tile_m}) * round_up(gemm.n, int64_t{tile.tile_n});
  return splits.count * gemm.count * sums * static_cast<int64_t>(sizeof(float));
}

// Multiplications on the critical path: the blocks that a multiprocessor computes one after the other, each
// as large as its tile. Small tiles read more of shared memory for each mma, which the last factor estimates
// from the instructions of their main loops.
double cost(const Conv2dShape& s, Conv2dPass pass, TensorCoreType type, const TileRow& tile,
            int multiprocessors) {
  const Gemm gemm = gemm_of(s, pass);
  const bool split = pass == Conv2dPass::backward_weight;
  const Splits splits = split ? splits_of(s, gemm, tile, type, multiprocessors) : Splits{1, 1};
  const int64_t k = split ? splits.steps * tile.row_bytes : gemm.k;
  const int64_t blocks = splits.count * gemm.count * ceil_div(gemm.m, int64_t{tile.tile_m}) *
                         ceil_div(gemm.n, int64_t{tile.tile_n});
  const int64_t rounds = ceil_div(blocks, int64_t{kBlocksAtOnce} * multiprocessors);
  const double overhead = 1.0 + 24.0 / tile.tile_m + 24.0 / tile.tile_n;
  return static_cast<double>(rounds * tile.tile_m * tile.tile_n) * static_cast<double>(k) * overhead;
}

const char* tile_refuses(const TileRow& tile, Conv2dPass pass, bool by_vectors,
                         const device::DeviceLimits& limits) {
  const bool weight = pass == Conv2dPass::backward_weight;
  if (weight ? !(by_vectors ? tile.weight_by_vectors : tile.weight_gathers) : !by_vectors && !tile.gathers) {
    return by_vectors ? "it has no kernel for weight gradients"
                      : "it has no kernel that gathers value by value";
  }
  if (tile.needs_async_copy && limits.architecture < 80)
    return "it needs cp.async, of compute capability 8.0";
  return nullptr;
}

bool copies_vectors(const Conv2dShape& s, Conv2dPass pass, TensorCoreType type, bool channels_last,
                    bool aligned) {
  const int per_chunk = kChunkBytes / tensor_core_element_bytes(type);
  const bool whole_c = s.group_c() % per_chunk == 0, whole_k = s.group_k() % per_chunk == 0;
  if (!channels_last || !aligned) return false;
  if (pass == Conv2dPass::backward_weight) return whole_c && whole_k;
  return pass == Conv2dPass::forward ? whole_c : whole_k;
}

// The most elements of the source between the first and the last pixel of a block.
int64_t block_span(const Conv2dShape& s, Conv2dPass pass) {
  const bool backward = pass == Conv2dPass::backward_input;
  const int64_t image = backward ? s.k * s.p * s.q : s.c * s.h * s.w;
  const int64_t pixels =
      backward ? std::max<int64_t>(1, s.h / s.stride_h) * std::max<int64_t>(1, s.w / s.stride_w) : s.p * s.q;
  return (ceil_div<int64_t>(kThreads, pixels) + 1) * image;
}

}  // namespace

const char* tensor_core_refuses(const Conv2dShape& s, Conv2dPass pass, TensorCoreType type,
                                const device::DeviceLimits& limits) {
  constexpr int64_t kLimit = int64_t{1} << 31;
  const Gemm gemm = gemm_of(s, pass);
  if (limits.architecture < 75) return "tensor cores by mma.sync need compute capability 7.5";
  if (type != TensorCoreType::float16 && limits.architecture < 80) {
    return "tensor cores multiply bfloat16 and tf32 from compute capability 8.0 on";
  }
  if (s.r * s.s > kMaxTaps || s.r + s.s > kMaxTapBits)
    return "the kernel has more taps than the table of taps";
  if (pass == Conv2dPass::backward_input && std::max(s.stride_h, s.stride_w) > kMaxPhases) {
    return "the stride is larger than 8: each remainder by it is a phase of its own";
  }
  if (pass == Conv2dPass::backward_weight && std::max(s.h + 2 * s.pad_h, s.w + 2 * s.pad_w) >= kMaxSide) {
    return "an image with its padding is 2^14 pixels long or more: two coordinates share a word";
  }
  if (std::max({s.h, s.w, s.p, s.q, s.pad_h, s.pad_w, s.dil_h * s.r, s.dil_w * s.s}) >= kLimit / 4 ||
      s.n * s.h * s.w >= kLimit - kThreads || s.n * s.p * s.q >= kLimit - kThreads || gemm.k >= kLimit / 4) {
    return "pixels or products of an output are counted in 32 bits";
  }
  if (block_span(s, pass) >= kLimit / 4) return "the images of a block span 2^29 elements or more";
  constexpr int64_t kMaxGridY = 65535;
  if (gemm.count > kMaxGridY) return "groups and phases are more than a grid has rows";
  return nullptr;
}

TensorCorePlan plan_tensor_core(const Conv2dShape& shape, Conv2dPass pass, TensorCoreType type,
                                bool channels_last, bool aligned, const device::DeviceLimits& limits,
                                const char* tile) {
  const bool by_vectors = copies_vectors(shape, pass, type, channels_last, aligned);
  const TileRow* best = nullptr;
  double best_cost = 0;
  for (const TileRow& candidate : kTiles) {
    if (tile != nullptr && std::string(tile) != candidate.name) continue;
    if (const char* reason = tile_refuses(candidate, pass, by_vectors, limits)) {
      if (tile != nullptr) throw std::runtime_error(std::string("tile ") + tile + ": " + reason);
      continue;
    }
    const double candidate_cost = cost(shape, pass, type, candidate, limits.multiprocessors);
    if (best == nullptr || candidate_cost < best_cost) best = &candidate, best_cost = candidate_cost;
  }
  if (best == nullptr) throw std::runtime_error(std::string("there is no tile ") + tile);
  const Gemm gemm = gemm_of(shape, pass);
  const bool weight = pass == Conv2dPass::backward_weight;
  const Splits splits = splits_of(shape, gemm, *best, type, limits.multiprocessors);
  return {best, by_vectors, limits.architecture >= 80, weight ? static_cast<int>(splits.count) : 1,
          weight ? partial_bytes(gemm, *best, splits) : workspace_bytes(gemm, *best, type)};
}

std::string explain_tensor_core(const Conv2dShape& shape, Conv2dPass pass, TensorCoreType type,
                                bool channels_last, bool aligned, const device::DeviceLimits& limits) {
  if (const char* reason = tensor_core_refuses(shape, pass, type, limits)) return reason;
  const TensorCorePlan plan = plan_tensor_core(shape, pass, type, channels_last, aligned, limits);
  std::string text = std::string(plan.tile->name) + ": chosen, " +
                     (plan.by_vectors ? "by vectors" : "value by value") + ", splits " +
                     std::to_string(plan.splits);
  const double best = cost(shape, pass, type, *plan.tile, limits.multiprocessors);
  for (const TileRow& tile : kTiles) {
    if (&tile == plan.tile) continue;
    const char* reason = tile_refuses(tile, pass, plan.by_vectors, limits);
    const int percent = static_cast<int>(100 * cost(shape, pass, type, tile, limits.multiprocessors) / best);
    text += std::string("\n") + tile.name + ": " +
            (reason != nullptr ? reason : "costs " + std::to_string(percent) + " % of the chosen one");
  }
  return text;
}

}  // namespace cnnext
