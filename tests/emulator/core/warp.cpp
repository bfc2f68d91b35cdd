#include <emulator/warp.h>

#include <algorithm>
#include <string>

#include "collective.h"
#include "machine.h"

namespace emulator {
namespace {

template <class Visit>
void for_lanes(uint32_t mask, const Visit& visit) {
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    if (mask >> lane & 1) {
      visit(lane);
    }
  }
}

struct ShuffleOperand {
  uint64_t value, result;
  int operand, width;
  Shuffle kind;
  Site site;
  const void* code;
};

// PTX shfl.sync: the lane that `lane` reads from; itself where the source falls outside its group of `width`.
int source_lane(const ShuffleOperand& shuffle, int lane) {
  const int first = lane & ~(shuffle.width - 1);
  const int end = first + shuffle.width;
  int source = lane;
  switch (shuffle.kind) {
    case Shuffle::kIndex:
      return first + (shuffle.operand & (shuffle.width - 1));
    case Shuffle::kUp:
      source = lane - shuffle.operand;
      break;
    case Shuffle::kDown:
      source = lane + shuffle.operand;
      break;
    case Shuffle::kXor:
      source = lane ^ shuffle.operand;
      break;
  }
  // An xor that lands in a lower group is served, one that lands in a higher group is not.
  const bool outside = source >= end || (source < first && shuffle.kind != Shuffle::kXor);
  return outside ? lane : source;
}

void apply_shuffle(void* const* operands, uint32_t mask) {
  for_lanes(mask, [&](int lane) {
    auto& shuffle = *static_cast<ShuffleOperand*>(operands[lane]);
    const int source = source_lane(shuffle, lane);
    if (source >= kWarpLanes || (mask >> source & 1) == 0) {
      raise(FaultKind::kUndefinedValue,
            "lane " + std::to_string(lane) + " shuffles from lane " + std::to_string(source) +
                ", which takes no part: the value is undefined",
            shuffle.code, shuffle.site);
    }
    shuffle.result = static_cast<const ShuffleOperand*>(operands[source])->value;
  });
}

struct BallotOperand {
  bool predicate;
  uint32_t result;
};

struct ReduceOperand {
  uint32_t value, result;
  Reduce kind;
};

uint32_t combine(Reduce kind, uint32_t a, uint32_t b) {
  const auto signed_a = static_cast<int32_t>(a), signed_b = static_cast<int32_t>(b);
  switch (kind) {
    case Reduce::kAdd:
      return a + b;
    case Reduce::kMinSigned:
      return static_cast<uint32_t>(std::min(signed_a, signed_b));
    case Reduce::kMaxSigned:
      return static_cast<uint32_t>(std::max(signed_a, signed_b));
    case Reduce::kMinUnsigned:
      return std::min(a, b);
    case Reduce::kMaxUnsigned:
      return std::max(a, b);
    case Reduce::kAnd:
      return a & b;
    case Reduce::kOr:
      return a | b;
    case Reduce::kXor:
      return a ^ b;
  }
  return 0;
}

}  // namespace

void warp_sync(uint32_t mask, Site site) {
  meet(mask, "__syncwarp", 0, site, __builtin_return_address(0), nullptr,
       [](void* const*, uint32_t lanes) { machine.clocks.join_lanes(machine.current->warp, lanes); });
}

uint64_t warp_shuffle(uint32_t mask, uint64_t value, int operand, int width, Shuffle kind, Site site) {
  const void* code = __builtin_return_address(0);
  if (width <= 0 || width > kWarpLanes || (width & (width - 1)) != 0) {
    raise(FaultKind::kUndefinedValue,
          "a shuffle's width is a power of two up to 32, not " + std::to_string(width), code, site);
  }
  ShuffleOperand shuffle{value, 0, operand, width, kind, site, code};
  meet(mask, "__shfl_sync", static_cast<int>(kind) * 64 + width, site, code, &shuffle, apply_shuffle);
  return shuffle.result;
}

uint32_t warp_ballot(uint32_t mask, bool predicate, Site site) {
  BallotOperand ballot{predicate, 0};
  meet(mask, "a vote", 0, site, __builtin_return_address(0), &ballot,
       [](void* const* operands, uint32_t lanes) {
         uint32_t result = 0;
         for_lanes(lanes, [&](int lane) {
           result |= static_cast<uint32_t>(static_cast<BallotOperand*>(operands[lane])->predicate) << lane;
         });
         for_lanes(lanes, [&](int lane) { static_cast<BallotOperand*>(operands[lane])->result = result; });
       });
  return ballot.result;
}

uint32_t warp_reduce(uint32_t mask, uint32_t value, Reduce kind, Site site) {
  ReduceOperand reduce{value, 0, kind};
  const void* code = __builtin_return_address(0);
  meet(mask, "__reduce_sync", static_cast<int>(kind), site, code, &reduce,
       [](void* const* operands, uint32_t lanes) {
         const int first = __builtin_ctz(lanes);
         uint32_t result = static_cast<ReduceOperand*>(operands[first])->value;
         for_lanes(lanes & ~(1u << first), [&](int lane) {
           const auto& other = *static_cast<ReduceOperand*>(operands[lane]);
           result = combine(other.kind, result, other.value);
         });
         for_lanes(lanes, [&](int lane) { static_cast<ReduceOperand*>(operands[lane])->result = result; });
       });
  return reduce.result;
}

}  // namespace emulator
