// Which algorithm and tile run a convolution on CUDA: a pure function of what is asked for and of the device,
// that can say why every other candidate was not taken. Free of torch, and needs no GPU.
//
// Candidates are tried in the order of kConv2dCandidates. One may be impossible, which nothing overrides, or
// slower than the ones behind it. CNNEXT_CONV2D=<algorithm> or <algorithm>:<tile> in the environment asks for
// a candidate that is possible, for tests and measurements.
#pragma once

#include <cstring>
#include <iterator>

#include "conv2d_direct_choose.h"
#include "conv2d_implicit_gemm_choose.h"
#include "conv2d_request.h"
#include "conv2d_tensor_core_choose.h"
#include "conv2d_winograd_choose.h"

namespace cnnext {

struct Conv2dCandidate {
  Conv2dAlgorithm algorithm;
  const char* name;
  const char* (*refuses)(const Conv2dRequest&);  // null, or why it cannot run
  const char* (*slower)(const Conv2dRequest&);   // null, or why one behind it is faster
};

inline constexpr Conv2dCandidate kConv2dCandidates[] = {
    {Conv2dAlgorithm::tensor_core, "tensor_core", tensor_core::refuses, tensor_core::slower},
    {Conv2dAlgorithm::winograd_4x3, "winograd_4x3", winograd::refuses, winograd::slower_4x3},
    {Conv2dAlgorithm::winograd_2x3, "winograd_2x3", winograd::refuses, winograd::slower_2x3},
    {Conv2dAlgorithm::implicit_gemm, "implicit_gemm", implicit_gemm::refuses, implicit_gemm::slower},
    {Conv2dAlgorithm::direct, "direct", direct::refuses, direct::slower},
};

// `forced`: CNNEXT_CONV2D or null. `rejections`, where wanted, gets every candidate and tile not taken.
inline Conv2dChoice choose_conv2d(const Conv2dRequest& request, const char* forced = nullptr,
                                  std::vector<Conv2dRejection>* rejections = nullptr) {
  const char* forced_tile = forced != nullptr ? std::strchr(forced, ':') : nullptr;
  const size_t length = forced_tile != nullptr ? static_cast<size_t>(forced_tile - forced)
                                               : (forced != nullptr ? std::strlen(forced) : 0);
  const auto is_forced = [&](const Conv2dCandidate& candidate) {
    return std::strlen(candidate.name) == length && std::strncmp(candidate.name, forced, length) == 0;
  };
  const Conv2dCandidate* chosen = nullptr;
  for (const Conv2dCandidate& candidate : kConv2dCandidates) {
    if (forced != nullptr && is_forced(candidate) && candidate.refuses(request) == nullptr)
      chosen = &candidate;
  }
  const bool by_force = chosen != nullptr;
  for (const Conv2dCandidate& candidate : kConv2dCandidates) {
    const char* reason = candidate.refuses(request);
    if (reason == nullptr && by_force) reason = "another algorithm was asked for";
    if (reason == nullptr) reason = candidate.slower(request);
    if (chosen == nullptr && reason == nullptr) chosen = &candidate;
    if (&candidate == chosen || rejections == nullptr) continue;
    rejections->push_back({candidate.name, reason != nullptr ? reason : "one before it is faster"});
  }
  if (chosen == nullptr)
    return {Conv2dAlgorithm::direct, 0, 1,
            kConv2dCandidates[std::size(kConv2dCandidates) - 1].refuses(request)};
  const char* tile = by_force && forced_tile != nullptr ? forced_tile + 1 : nullptr;
  switch (chosen->algorithm) {
    case Conv2dAlgorithm::tensor_core: {
      const auto plan = tensor_core::choose_tile(request, /*aligned=*/true, tile, rejections);
      return {chosen->algorithm, plan.tile, plan.splits};
    }
    case Conv2dAlgorithm::implicit_gemm: {
      const auto plan = implicit_gemm::choose_tile(request, tile, rejections);
      return {chosen->algorithm, plan.tile, plan.splits};
    }
    case Conv2dAlgorithm::winograd_2x3:
    case Conv2dAlgorithm::winograd_4x3:
      return {chosen->algorithm, 0, 1};
    default:
      return {chosen->algorithm, 0, direct::splits(request)};
  }
}

inline std::string conv2d_candidate_text(const Conv2dRequest& request, const Conv2dChoice& choice) {
  for (const Conv2dCandidate& candidate : kConv2dCandidates) {
    if (candidate.algorithm != choice.algorithm) continue;
    switch (choice.algorithm) {
      case Conv2dAlgorithm::tensor_core:
        return std::string(candidate.name) + ":" + tensor_core::kTiles[choice.tile].name;
      case Conv2dAlgorithm::implicit_gemm:
        return std::string(candidate.name) + ":" + implicit_gemm::tile_row(request.dtype, choice.tile).name;
      default:
        return candidate.name;
    }
  }
  return "";
}

}  // namespace cnnext
