// What the implicit GEMM on CUDA cores can run, and with which tile. Pure: shapes and device limits in, a row
// of the table out.
#pragma once

#include <cmath>

#include "conv2d_implicit_gemm_config.h"
#include "conv2d_request.h"

namespace cnnext::implicit_gemm {

inline constexpr int64_t kMost = (int64_t{1} << 31) - 1024;  // indices of 32 bits, and a tile to spare
inline constexpr int64_t kMostGrid = 65535;

// Null, or why it cannot run at all.
inline const char* refuses(const Conv2dRequest& request) {
  const Conv2dShape& s = request.shape;
  const int64_t padded_h = s.h + 2 * s.pad_h + s.dil_h * s.r, padded_w = s.w + 2 * s.pad_w + s.dil_w * s.s;
  const auto product_passes = [](std::initializer_list<int64_t> factors) {
    double product = 1;
    for (int64_t factor : factors) product *= static_cast<double>(factor);
    return product > static_cast<double>(kMost);
  };
  if (product_passes({s.n, s.p, s.q}) || product_passes({s.n, s.h, s.w}))
    return "the batch has 2^31 pixels or more";
  if (product_passes({s.c, padded_h, padded_w}) || product_passes({s.k, s.p + s.r, s.q + s.s}) ||
      product_passes({padded_h, s.stride_h}) || product_passes({padded_w, s.stride_w})) {
    return "an image has 2^31 elements or more, padding included";
  }
  if (product_passes({s.k, s.gemm_k()})) return "the weight has 2^31 elements or more";
  if (request.pass == Conv2dPass::backward_input) {
    if (s.stride_h > kMaxPhases || s.stride_w > kMaxPhases) {
      return "the input gradient has more phases than the kernel's table of 8 in each direction";
    }
    if (s.groups * s.stride_h * s.stride_w > kMostGrid)
      return "groups times phases are more than a grid's 65535";
  }
  if (s.groups > kMostGrid) return "groups are more than a grid's 65535";
  constexpr int64_t kNarrowest = 32;  // of the tiles
  const int64_t columns = larger(larger(s.group_k(), s.group_c()), s.gemm_k());
  if (ceil_div(columns, kNarrowest) > kMostGrid)
    return "channels or products are more than a grid's 65535 tiles";
  return nullptr;
}

// Null, or why the direct algorithm is the faster one. A tile has at least 32 output channels.
inline const char* slower(const Conv2dRequest& request) {
  constexpr int64_t kFewChannels = 8;
  const Conv2dShape& s = request.shape;
  const int64_t channels = request.pass == Conv2dPass::backward_input ? s.group_c() : s.group_k();
  return channels < kFewChannels ? "a group has fewer than 8 output channels, a quarter of the narrowest tile"
                                 : nullptr;
}

struct Plan {
  int tile, splits;
};

// The splits of a weight gradient: enough blocks for the device, and sums that are not too long for their
// rounding; every split costs a write and a read of the result.
inline int weight_splits(const Conv2dRequest& request, const TileRow& tile) {
  constexpr int64_t kLeastPixels = 256, kMostPixels = 16384;
  const Conv2dShape& s = request.shape;
  const int64_t pixels = s.gemm_m();
  const int64_t blocks =
      ceil_div<int64_t>(s.group_k(), tile.tile_m) * ceil_div<int64_t>(s.gemm_k(), tile.tile_n) * s.groups;
  const int64_t room = int64_t{request.limits.multiprocessors} * tile.blocks_per_multiprocessor;
  const int64_t most = larger<int64_t>(1, smaller(ceil_div(pixels, kLeastPixels), kMostGrid / s.groups));
  const int64_t wanted = larger(room / blocks, ceil_div(pixels, kMostPixels));
  return static_cast<int>(larger<int64_t>(1, smaller(wanted, most)));
}

// What a tile costs: the products that the busiest multiprocessor computes, empty parts of tiles included.
inline double cost(const Conv2dRequest& request, const TileRow& tile) {
  const Conv2dShape& s = request.shape;
  int64_t blocks, products;
  if (request.pass == Conv2dPass::backward_weight) {
    const int splits = weight_splits(request, tile);
    blocks = ceil_div<int64_t>(s.group_k(), tile.tile_m) * ceil_div<int64_t>(s.gemm_k(), tile.tile_n) *
             s.groups * splits;
    products = ceil_div<int64_t>(s.gemm_m(), splits);
  } else {
    const bool backward = request.pass == Conv2dPass::backward_input;
    const int64_t phases = backward ? s.stride_h * s.stride_w : 1;
    const int64_t pixels = backward ? ceil_div(s.n * s.h * s.w, phases) : s.gemm_m();
    blocks = ceil_div<int64_t>(pixels, tile.tile_m) * phases * s.groups *
             ceil_div<int64_t>(backward ? s.group_c() : s.group_k(), tile.tile_n);
    products = (backward ? s.group_k() * s.r * s.s : s.gemm_k()) / phases + 1;
  }
  const int64_t busiest = ceil_div<int64_t>(blocks, request.limits.multiprocessors);
  return static_cast<double>(busiest) * static_cast<double>(products) * tile.tile_m * tile.tile_n /
         tile.speed;
}

inline const TileRow& tile_row(Conv2dDtype dtype, int tile) {
  if (dtype == Conv2dDtype::float64) return kDoubleTile;
  return dtype == Conv2dDtype::float32 ? kTiles[tile] : kNarrowTile;
}

// `wanted`: the name of the tile to take, or null.
inline Plan choose_tile(const Conv2dRequest& request, const char* wanted,
                        std::vector<Conv2dRejection>* rejections) {
  int best = 0;
  if (request.dtype == Conv2dDtype::float32) {
    double least = HUGE_VAL;
    for (int tile = 0; tile < kTileCount; ++tile) {
      const double estimate = cost(request, kTiles[tile]);
      const bool asked_for = wanted != nullptr && std::strcmp(wanted, kTiles[tile].name) == 0;
      if (asked_for || estimate < least) best = tile, least = asked_for ? -1 : estimate;
    }
    for (int tile = 0; rejections != nullptr && tile < kTileCount; ++tile) {
      if (tile == best) continue;
      const double ratio = cost(request, kTiles[tile]) / cost(request, kTiles[best]);
      rejections->push_back({std::string("implicit_gemm:") + kTiles[tile].name,
                             least < 0 ? "another tile was asked for"
                                       : "it takes " + std::to_string(ratio) + " times as long by estimate"});
    }
  }
  const bool for_weight = request.pass == Conv2dPass::backward_weight;
  return {best, for_weight ? weight_splits(request, tile_row(request.dtype, best)) : 1};
}

}  // namespace cnnext::implicit_gemm
