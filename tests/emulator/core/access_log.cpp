#include "access_log.h"

#include <algorithm>
#include <unordered_map>
#include <vector>

#include "machine.h"

namespace emulator {
namespace {

constexpr int kSectorBytes = 32;
constexpr int kBanks = 32;
constexpr int kWordBytes = 4;
constexpr int kWavefrontBytes = kBanks * kWordBytes;

// How many distinct values [begin, end) of the accesses' address / unit there are.
int distinct_units(const LaneAccess* accesses, int count, int unit, std::vector<uintptr_t>& units) {
  units.clear();
  for (int i = 0; i < count; ++i) {
    const uintptr_t last = (accesses[i].address + accesses[i].bytes - 1) / unit;
    for (uintptr_t u = accesses[i].address / unit; u <= last; ++u) {
      units.push_back(u);
    }
  }
  std::sort(units.begin(), units.end());
  return static_cast<int>(std::unique(units.begin(), units.end()) - units.begin());
}

void count_global(const LaneAccess* accesses, int count, bool write, Counters& counters) {
  static std::vector<uintptr_t> units;
  const int sectors = distinct_units(accesses, count, kSectorBytes, units);
  const int element = accesses[0].bytes;
  const int bytes = distinct_units(accesses, count, element, units) * element;
  const int ideal = (bytes + kSectorBytes - 1) / kSectorBytes;
  (write ? counters.global_store_requests : counters.global_load_requests) += 1;
  (write ? counters.global_store_sectors : counters.global_load_sectors) += sectors;
  (write ? counters.global_store_ideal_sectors : counters.global_load_ideal_sectors) += ideal;
  (write ? counters.global_store_bytes : counters.global_load_bytes) += bytes;
}

void count_shared(const LaneAccess* accesses, int count, bool write, Counters& counters) {
  int ideal = 0;
  const int wavefronts = shared_wavefronts(accesses, count, ideal);
  (write ? counters.shared_store_requests : counters.shared_load_requests) += 1;
  (write ? counters.shared_store_wavefronts : counters.shared_load_wavefronts) += wavefronts;
  (write ? counters.shared_store_ideal_wavefronts : counters.shared_load_ideal_wavefronts) += ideal;
}

void count_request(const AccessRecord& kind, const LaneAccess* accesses, int count) {
  (kind.shared ? count_shared : count_global)(accesses, count, kind.write, *machine.counters);
}

// The usual case: all lanes of the warp have passed the same instructions in the same order.
bool in_lockstep(const Thread* lanes, int count) {
  for (int lane = 1; lane < count; ++lane) {
    if (lanes[lane].log.size() != lanes[0].log.size()) {
      return false;
    }
    for (size_t i = 0; i < lanes[0].log.size(); ++i) {
      if (!lanes[lane].log[i].same_instruction(lanes[0].log[i])) {
        return false;
      }
    }
  }
  return true;
}

void count_lockstep(const Thread* lanes, int count) {
  LaneAccess accesses[kWarpLanes];
  for (size_t i = 0; i < lanes[0].log.size(); ++i) {
    for (int lane = 0; lane < count; ++lane) {
      const AccessRecord& record = lanes[lane].log[i];
      accesses[lane] = {lane, record.address, record.bytes};
    }
    count_request(lanes[0].log[i], accesses, count);
  }
}

// One instruction of the kernel, and the accesses of the lanes that passed it for the n-th time.
struct Instruction {
  AccessRecord kind;
  std::vector<std::vector<LaneAccess>> passes;
};

void count_diverged(const Thread* lanes, int count) {
  std::vector<Instruction> instructions;
  std::unordered_map<uintptr_t, size_t> index;  // by code address, direction and space
  for (int lane = 0; lane < count; ++lane) {
    std::vector<size_t> passed(instructions.size(), 0);
    for (const AccessRecord& record : lanes[lane].log) {
      const uintptr_t key = reinterpret_cast<uintptr_t>(record.code) * 4 + record.write * 2u + record.shared;
      const auto [found, is_new] = index.try_emplace(key, instructions.size());
      if (is_new) {
        instructions.push_back({record, {}});
      }
      passed.resize(instructions.size(), 0);
      auto& passes = instructions[found->second].passes;
      const size_t pass = passed[found->second]++;
      if (pass == passes.size()) {
        passes.emplace_back();
      }
      passes[pass].push_back({lane, record.address, record.bytes});
    }
  }
  for (const Instruction& instruction : instructions) {
    for (const auto& accesses : instruction.passes) {
      count_request(instruction.kind, accesses.data(), static_cast<int>(accesses.size()));
    }
  }
}

}  // namespace

int shared_wavefronts(const LaneAccess* accesses, int count, int& ideal) {
  // 32 lanes of 4 bytes fill a wavefront; wider accesses go in groups of 16 or 8 neighbouring lanes.
  const int lanes_at_once = kWavefrontBytes / std::clamp(accesses[0].bytes, kWordBytes, 16);
  int wavefronts = 0;
  ideal = 0;
  for (int i = 0; i < count;) {
    const int group = accesses[i].lane / lanes_at_once;
    uintptr_t words[kWarpLanes * 4];
    int word_count = 0;
    for (; i < count && accesses[i].lane / lanes_at_once == group; ++i) {
      const uintptr_t last = (accesses[i].address + accesses[i].bytes - 1) / kWordBytes;
      for (uintptr_t word = accesses[i].address / kWordBytes; word <= last; ++word) {
        words[word_count++] = word;
      }
    }
    // Lanes that want the same word share it; words of one bank that differ are served one after the other.
    std::sort(words, words + word_count);
    word_count = static_cast<int>(std::unique(words, words + word_count) - words);
    int in_bank[kBanks] = {};
    int most = 0;
    for (int word = 0; word < word_count; ++word) {
      most = std::max(most, ++in_bank[words[word] % kBanks]);
    }
    wavefronts += most;
    ++ideal;
  }
  return wavefronts;
}

void count_logged_accesses() {
  if (!machine.sampled) {
    return;
  }
  for (size_t warp = 0; warp < machine.warps.size(); ++warp) {
    Thread* lanes = &machine.threads[warp * kWarpLanes];
    const int count = std::min(kWarpLanes, machine.thread_count - static_cast<int>(warp) * kWarpLanes);
    in_lockstep(lanes, count) ? count_lockstep(lanes, count) : count_diverged(lanes, count);
    for (int lane = 0; lane < count; ++lane) {
      lanes[lane].log.clear();
    }
  }
}

}  // namespace emulator
