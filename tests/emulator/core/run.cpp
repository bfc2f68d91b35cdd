// run(): one launch from its checks to its counters.
#include <dlfcn.h>
#include <emulator/launch.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "builtins.h"
#include "control.h"
#include "machine.h"
#include "memory_check.h"
#include "scheduler.h"

namespace emulator {
namespace {

// CUDA C++ Programming Guide, "Technical specifications per compute capability".
constexpr unsigned kMaxBlockZ = 64;
constexpr unsigned kMaxGridX = 2147483647;
constexpr unsigned kMaxGridYZ = 65535;

struct LargestBlock {
  uint64_t threads = 0, dynamic_shared_bytes = 0;
};
std::map<const void*, LargestBlock> launched;  // by the kernel

void check_limits(const Launch& launch) {
  const dim3 grid = launch.grid, block = launch.block;
  const auto refuse = [](const std::string& why) { raise(FaultKind::kInvalidLaunch, why, nullptr); };
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || block.x == 0 || block.y == 0 || block.z == 0) {
    refuse("an empty grid or block");
  }
  if (static_cast<uint64_t>(block.x) * block.y * block.z > kMaxThreads || block.z > kMaxBlockZ) {
    refuse("a block has at most 1024 threads, and 64 in z");
  }
  if (grid.x > kMaxGridX || grid.y > kMaxGridYZ || grid.z > kMaxGridYZ) {
    refuse("a grid has at most 2147483647 blocks in x, and 65535 in y and in z");
  }
  if (launch.dynamic_shared_bytes > launch.shared_bytes_limit) {
    refuse("a block of this device has at most " + std::to_string(launch.shared_bytes_limit) +
           " bytes of dynamic shared memory");
  }
}

void open_launch(const Launch& launch) {
  machine.launch = &launch;
  machine.current = nullptr;
  machine.block_index = {};
  machine.random = machine.settings.seed | 1u;
  check_limits(launch);
  machine.thread_count = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
  if (machine.threads.size() < static_cast<size_t>(machine.thread_count)) {
    machine.threads.resize(static_cast<size_t>(machine.thread_count));
  }
  machine.warps.resize(static_cast<size_t>((machine.thread_count + kWarpLanes - 1) / kWarpLanes));
  set_dimensions(launch.grid, launch.block);
  machine.counters = &counters()[launch.kernel];
  ++machine.counters->launches;
  LargestBlock& largest = launched[launch.function];
  largest.threads = std::max(largest.threads, static_cast<uint64_t>(machine.thread_count));
  largest.dynamic_shared_bytes =
      std::max<uint64_t>(largest.dynamic_shared_bytes, launch.dynamic_shared_bytes);
  machine.counters->declared_flops += static_cast<uint64_t>(launch.flops);
  for (int i = 0; i < launch.memory_count; ++i) {
    machine.counters->declared_bytes += launch.memory[i].data != nullptr ? launch.memory[i].bytes : 0;
  }
  open_launch_memory(launch);
}

// Evenly spaced over the grid, first block included: edges and middle have their share.
bool is_sampled(uint64_t block, uint64_t block_count) {
  const auto samples = static_cast<uint64_t>(machine.settings.sampled_blocks);
  if (!tracing()) {
    return false;
  }
  return samples == 0 || samples >= block_count || block * samples % block_count < samples;
}

void run_grid(const Launch& launch) {
  const dim3 grid = launch.grid;
  const uint64_t block_count = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
  for (uint64_t block = 0; block < block_count; ++block) {
    machine.block_index = {static_cast<unsigned>(block % grid.x),
                           static_cast<unsigned>(block / grid.x % grid.y),
                           static_cast<unsigned>(block / grid.x / grid.y)};
    set_block_index(machine.block_index);
    ++machine.block_serial;
    machine.sampled = is_sampled(block, block_count);
    ++machine.counters->blocks;
    machine.counters->threads += static_cast<uint64_t>(machine.thread_count);
    machine.counters->sampled_blocks += machine.sampled;
    open_block_memory();
    run_block();
  }
}

struct CloseLaunch {
  ~CloseLaunch() {
    close_launch_memory();
    machine.current = nullptr;
    machine.launch = nullptr;
  }
};

std::mutex launch_mutex;

}  // namespace

void run(const Launch& launch) {
  const std::lock_guard<std::mutex> lock(launch_mutex);
  const CloseLaunch close;
  open_launch(launch);
  run_grid(launch);
  if (tracing()) {
    check_outputs_written();
  }
}

std::map<std::string, Counters>& counters() {
  static std::map<std::string, Counters> table;
  return table;
}

std::vector<LaunchedFunction> launched_functions() {
  std::vector<LaunchedFunction> found;
  for (const auto& [function, largest] : launched) {
    Dl_info info{};
    if (dladdr(function, &info) == 0) continue;
    const auto* base = static_cast<const char*>(info.dli_fbase);
    found.push_back({info.dli_fname, static_cast<uint64_t>(static_cast<const char*>(function) - base),
                     largest.threads, largest.dynamic_shared_bytes});
  }
  return found;
}

void set_order(const std::string& name, unsigned seed) {
  if (name == "forward") {
    machine.settings.order = Order::kForward;
  } else if (name == "reversed") {
    machine.settings.order = Order::kReversed;
  } else if (name == "random") {
    machine.settings.order = Order::kRandom;
  } else {
    throw std::invalid_argument("order must be 'forward', 'reversed' or 'random', not '" + name + "'");
  }
  machine.settings.seed = seed;
}

void set_tracing(bool on) { machine.settings.tracing = on; }

void set_sampled_blocks(int count) {
  if (count < 0) {
    throw std::invalid_argument("the number of sampled blocks must be at least 0, not " +
                                std::to_string(count));
  }
  machine.settings.sampled_blocks = count;
}

}  // namespace emulator
