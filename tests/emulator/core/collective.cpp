#include "collective.h"

#include <cstdio>
#include <cstring>
#include <string>

#include "machine.h"
#include "scheduler.h"

namespace emulator {
namespace {

std::string hex(uint32_t mask) {
  char text[16];
  std::snprintf(text, sizeof(text), "0x%08x", mask);
  return text;
}

// Of two collectives of one warp that share lanes, the second is an error.
[[noreturn]] void raise_divergent(const Collective& waiting, uint32_t mask, const char* name, Site site,
                                  const void* code) {
  raise(FaultKind::kDivergentCollective,
        std::string(name) + " for lanes " + hex(mask) + ", while lanes " + hex(waiting.arrived) +
            " wait in " + waiting.name + " for lanes " + hex(waiting.mask) + " at " + waiting.site.file +
            ":" + std::to_string(waiting.site.line),
        code, site);
}

bool matches(const Collective& waiting, uint32_t mask, const char* name, int variant, Site site) {
  return waiting.mask == mask && waiting.variant == variant && waiting.site.line == site.line &&
         std::strcmp(waiting.name, name) == 0 && std::strcmp(waiting.site.file, site.file) == 0;
}

void check_mask(const Warp& warp, uint32_t mask, const char* name, Site site, const void* code) {
  if ((mask >> machine.current->lane & 1) == 0) {
    raise(FaultKind::kDivergentCollective, std::string(name) + ": the mask does not name the calling lane",
          code, site);
  }
  if ((mask & warp.returned) != 0) {
    raise(FaultKind::kDivergentCollective,
          std::string(name) + " for lanes that have returned: " + hex(mask & warp.returned), code, site);
  }
}

Collective& find_or_start(Warp& warp, uint32_t mask, const char* name, int variant, Site site,
                          const void* code) {
  Collective* unused = nullptr;
  for (Collective& collective : warp.collectives) {
    if (collective.arrived == 0) {
      unused = &collective;
    } else if ((collective.mask & mask) != 0) {
      if (!matches(collective, mask, name, variant, site)) {
        raise_divergent(collective, mask, name, site, code);
      }
      return collective;
    }
  }
  if (unused == nullptr) {
    unused = &warp.collectives.emplace_back();
  }
  *unused = {mask, 0, name, variant, site, {}};
  return *unused;
}

}  // namespace

void meet(uint32_t mask, const char* name, int variant, Site site, const void* code, void* operand,
          void (*apply)(void* const* operands, uint32_t mask)) {
  Thread& thread = *machine.current;
  Warp& warp = machine.warps[thread.warp];
  mask &= warp.exists;  // a block's last warp may be short; a full mask is right there too
  check_mask(warp, mask, name, site, code);
  Collective& collective = find_or_start(warp, mask, name, variant, site, code);
  collective.operand[thread.lane] = operand;
  collective.arrived |= 1u << thread.lane;
  if (collective.arrived != mask) {
    suspend(ThreadState::kAtCollective, name, site, code);
    return;
  }
  apply(collective.operand, mask);
  collective.arrived = 0;
  ++machine.counters->warp_collectives;
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    if ((mask >> lane & 1) != 0 && lane != thread.lane) {
      make_ready(machine.threads[thread.warp * kWarpLanes + lane]);
    }
  }
}

void meet_whole_warp(const char* name, int variant, Site site, const void* code, void* operand,
                     void (*apply)(void* const* operands, uint32_t mask)) {
  if (machine.warps[machine.current->warp].exists != ~0u) {
    raise(FaultKind::kDivergentCollective, std::string(name) + " in a warp of fewer than 32 threads", code,
          site);
  }
  meet(~0u, name, variant, site, code, operand, apply);
}

}  // namespace emulator
