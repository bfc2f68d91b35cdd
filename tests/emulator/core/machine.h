// The state of the emulated device: the block that runs, its threads and warps. One block at a time, on one
// OS thread; run() holds a lock.
#pragma once

#include <emulator/launch.h>
#include <emulator/site.h>
#include <emulator/synchronize.h>
#include <vector_types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "clocks.h"
#include "counters.h"
#include "fault.h"
#include "fiber.h"

namespace emulator {

inline constexpr int kWarpLanes = 32;
inline constexpr int kMaxThreads = 1024;
inline constexpr int kMaxBarriers = 16;

enum class ThreadState : uint8_t { kReady, kAtBarrier, kAtCollective, kReturned };

struct PendingCopy {
  void* shared;
  const void* global;
  int bytes, valid_bytes;
  int group;
  const void* code;
};

struct AccessRecord {
  const void* code;
  uintptr_t address;
  uint16_t bytes;
  bool write, shared;

  bool same_instruction(const AccessRecord& other) const {
    return code == other.code && write == other.write && shared == other.shared;
  }
};

struct Thread {
  Fiber fiber;
  uint3 index;
  int number;  // in the block
  int warp, lane;

  ThreadState state;
  const char* waits_in;  // while it waits: the function, its place in the source and in the code
  Site site;
  const void* code;
  int barrier;

  std::vector<PendingCopy> copies;
  int open_copy_group;
  std::vector<AccessRecord> log;  // since the last barrier, in sampled blocks
};

// A warp collective that not all lanes of its mask have reached yet.
struct Collective {
  uint32_t mask, arrived;
  const char* name;
  int variant;
  Site site;
  void* operand[kWarpLanes];
};

struct Warp {
  uint32_t exists, ready, returned;  // masks of lanes
  std::vector<Collective> collectives;
};

struct Barrier {
  int arrived;
  int threads;
  int count_true;  // votes of those that have arrived
  int result;      // votes of the last complete round
};

enum class Order { kForward, kReversed, kRandom };

struct Settings {
  Order order = Order::kForward;
  uint32_t seed = 1;
  bool tracing = true;     // effective only in code compiled for tracing
  int sampled_blocks = 8;  // of each launch, for sectors and wavefronts; 0: all
};

struct Machine {
  Settings settings;
  const Launch* launch = nullptr;
  Counters* counters = nullptr;  // of the kernel that runs

  Fiber main;
  Thread* current = nullptr;  // null while the caller of run() runs
  std::vector<Thread> threads;
  int thread_count = 0;
  std::vector<Warp> warps;
  int running = 0;  // threads that have not returned
  Barrier barriers[kMaxBarriers] = {};
  uint32_t random = 1;

  uint3 block_index{};
  uint32_t block_serial = 0;  // counts blocks over all launches
  bool sampled = false;       // this block's accesses go to the counters
  Clocks clocks;
  FaultRecord fault;
};

extern Machine machine;

inline Thread* begin_threads() { return machine.threads.data(); }
inline Thread* end_threads() { return machine.threads.data() + machine.thread_count; }

}  // namespace emulator
