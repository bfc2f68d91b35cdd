// Which algorithm computes a corr2d on CUDA: a pure function of the shape and a few numbers of the device.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../common/math.h"

namespace cnnext {

// y[p, q] = Σ_{r,s} x[p − pad_h + r, q − pad_w + s] · kernel[r, s] over the taps inside x [h, w]; y [p, q].
// The input gradient is the correlation of the padded gradient with the kernel turned by 180°.
struct Correlation {
  int64_t h, w, r, s, p, q, pad_h, pad_w;
  bool turned;  // kernel[R − 1 − r, S − 1 − s] in place of kernel[r, s]
};

enum class Corr2dAlgorithm { kDirect, kTiled, kSplitSum };

struct Corr2dChoice {
  Corr2dAlgorithm algorithm;
  int64_t rows_per_split;  // of the kernel, kSplitSum only
  int64_t splits;
};

inline const char* corr2d_algorithm_name(Corr2dAlgorithm algorithm) {
  return algorithm == Corr2dAlgorithm::kDirect  ? "direct"
         : algorithm == Corr2dAlgorithm::kTiled ? "tiled"
                                                : "split_sum";
}

inline constexpr int kCorr2dThreads = 256;
inline constexpr int kCorr2dTileP = 32, kCorr2dTileQ = 32;
inline constexpr int64_t kCorr2dSharedBytes = 48 * 1024;  // what every device gives without being asked

// Of a tile: the pixels under its outputs, and the kernel, in the type that is calculated in.
inline int64_t corr2d_tile_bytes(const Correlation& shape, int64_t compute_bytes) {
  return ((kCorr2dTileP - 1 + shape.r) * (kCorr2dTileQ - 1 + shape.s) + shape.r * shape.s) * compute_bytes;
}

// Where the sum of each output is long and there are few of them, the sum is what is shared among threads.
inline const char* why_not_split_sum(const Correlation& shape, int multiprocessors) {
  if (shape.pad_h > 0 || shape.pad_w > 0 || shape.turned) return "it does not know padding";
  if (shape.r * shape.s < kCorr2dThreads) return "a sum has fewer terms than a block has threads";
  if (shape.p * shape.q > int64_t{multiprocessors} * kCorr2dThreads)
    return "the outputs alone fill the device";
  return nullptr;
}

inline const char* why_not_tiled(const Correlation& shape, int64_t compute_bytes) {
  if (shape.p * shape.q < 4 * kCorr2dTileP * kCorr2dTileQ)
    return "there are fewer than four tiles of outputs";
  if (corr2d_tile_bytes(shape, compute_bytes) > kCorr2dSharedBytes) return "a tile takes more than 48 KiB";
  return nullptr;
}

// A thread adds up at most about 64 terms one after the other, and every multiprocessor has four blocks.
inline Corr2dChoice corr2d_split_sum(const Correlation& shape, int multiprocessors) {
  constexpr int64_t kLanes = 32, kRowsAtOnce = kCorr2dThreads / kLanes, kLongestChain = 64, kBlocksEach = 4;
  const int64_t chain_of_a_row = ceil_div(shape.s, kLanes);
  const int64_t by_chain = larger<int64_t>(1, kLongestChain / chain_of_a_row) * kRowsAtOnce;
  const int64_t wanted_splits = ceil_div(kBlocksEach * multiprocessors, shape.p * shape.q);
  const int64_t by_blocks = round_up(ceil_div(shape.r, wanted_splits), kRowsAtOnce);
  const int64_t by_grid = ceil_div<int64_t>(shape.r, 65535);
  const int64_t rows = larger(smaller(by_chain, by_blocks), by_grid);
  return {Corr2dAlgorithm::kSplitSum, rows, ceil_div(shape.r, rows)};
}

// `why`, if given, receives "<algorithm>: <reason>" of each that was passed over.
inline Corr2dChoice choose_corr2d(const Correlation& shape, int64_t compute_bytes, int multiprocessors,
                                  std::vector<std::string>* why = nullptr) {
  const auto passed_over = [&](Corr2dAlgorithm algorithm, const char* reason) {
    if (reason != nullptr && why != nullptr) {
      why->push_back(std::string(corr2d_algorithm_name(algorithm)) + ": " + reason);
    }
    return reason != nullptr;
  };
  if (!passed_over(Corr2dAlgorithm::kSplitSum, why_not_split_sum(shape, multiprocessors))) {
    return corr2d_split_sum(shape, multiprocessors);
  }
  if (!passed_over(Corr2dAlgorithm::kTiled, why_not_tiled(shape, compute_bytes))) {
    return {Corr2dAlgorithm::kTiled, 0, 1};
  }
  return {Corr2dAlgorithm::kDirect, 0, 1};
}

}  // namespace cnnext
