#include <emulator/synchronize.h>

#include <cstring>
#include <string>

#include "access_log.h"
#include "machine.h"
#include "memory_check.h"
#include "scheduler.h"

namespace emulator {
namespace {

bool same_place(const Site& a, const Site& b) { return a.line == b.line && std::strcmp(a.file, b.file) == 0; }

void check_arrival(int id, int threads, const Site& site, const void* code) {
  if (id < 0 || id >= kMaxBarriers) {
    raise(FaultKind::kDivergentBarrier, "barrier " + std::to_string(id) + " does not exist: a block has 16",
          code, site);
  }
  if (threads != machine.thread_count && (threads <= 0 || threads % kWarpLanes != 0)) {
    raise(FaultKind::kDivergentBarrier,
          "a named barrier is for whole warps, not for " + std::to_string(threads) + " threads", code, site);
  }
  if (machine.barriers[id].arrived == 0) {
    return;
  }
  for (const Thread* thread = begin_threads(); thread != end_threads(); ++thread) {
    if (thread->state == ThreadState::kAtBarrier && thread->barrier == id) {
      if (!same_place(thread->site, site) || machine.barriers[id].threads != threads) {
        raise(FaultKind::kDivergentBarrier,
              "thread " + std::to_string(thread->number) + " waits at another barrier, " + thread->site.file +
                  ":" + std::to_string(thread->site.line),
              code, site);
      }
      return;
    }
  }
}

uint32_t release(int id) {
  uint32_t warps = 1u << machine.current->warp;
  for (Thread* thread = begin_threads(); thread != end_threads(); ++thread) {
    if (thread->state == ThreadState::kAtBarrier && thread->barrier == id) {
      make_ready(*thread);
      warps |= 1u << thread->warp;
    }
  }
  return warps;
}

}  // namespace

int barrier(int id, int threads, Vote vote, int predicate, Site site) {
  const void* code = __builtin_return_address(0);
  const int expected = threads != 0 ? threads : machine.thread_count;
  check_arrival(id, expected, site, code);
  Barrier& barrier = machine.barriers[id];
  Thread& thread = *machine.current;
  thread.barrier = id;
  barrier.threads = expected;
  barrier.count_true += predicate != 0;
  if (++barrier.arrived == expected) {
    barrier.arrived = 0;
    barrier.result = barrier.count_true;
    barrier.count_true = 0;
    ++machine.counters->barriers;
    machine.clocks.join_warps(release(id));
    if (expected == machine.thread_count) {
      count_logged_accesses();
    }
  } else {
    suspend(ThreadState::kAtBarrier, id == 0 ? "__syncthreads" : "a named barrier", site, code);
  }
  // The result is still this round's: the next round cannot end before this thread has arrived.
  switch (vote) {
    case Vote::kCount:
      return barrier.result;
    case Vote::kAnd:
      return barrier.result == expected;
    case Vote::kOr:
      return barrier.result != 0;
    case Vote::kNone:
      break;
  }
  return 0;
}

void device_fence() { publish_block(); }

void trap(Site site) {
  raise(FaultKind::kTrap, "the kernel called __trap()", __builtin_return_address(0), site);
}

}  // namespace emulator
