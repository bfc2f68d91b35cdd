#include "scheduler.h"

#include <exception>
#include <map>
#include <string>
#include <utility>

#include "access_log.h"
#include "builtins.h"

namespace emulator {

Machine machine;

namespace {

std::exception_ptr kernel_exception;

uint32_t next_random() {
  uint32_t& x = machine.random;  // xorshift32
  x ^= x << 13;
  x ^= x >> 17;
  x ^= x << 5;
  return x;
}

int choose_lane(uint32_t ready) {
  switch (machine.settings.order) {
    case Order::kForward:
      return __builtin_ctz(ready);
    case Order::kReversed:
      return 31 - __builtin_clz(ready);
    case Order::kRandom:
      break;
  }
  const uint32_t first = next_random() % 32;
  const uint32_t above = ready >> first << first;
  return __builtin_ctz(above != 0 ? above : ready);
}

// The next thread to run, from the current warp on, so that a warp runs until it waits; null if none is
// ready.
Thread* next_ready() {
  const int warp_count = static_cast<int>(machine.warps.size());
  const bool reversed = machine.settings.order == Order::kReversed;
  int start = machine.current != nullptr ? machine.current->warp : (reversed ? warp_count - 1 : 0);
  if (machine.settings.order == Order::kRandom) {
    start = static_cast<int>(next_random() % static_cast<uint32_t>(warp_count));
  }
  for (int step = 0; step < warp_count; ++step) {
    const int warp = (reversed ? start - step + warp_count : start + step) % warp_count;
    if (const uint32_t ready = machine.warps[warp].ready) {
      return &machine.threads[warp * kWarpLanes + choose_lane(ready)];
    }
  }
  return nullptr;
}

void switch_to(Thread* next, Fiber& from, bool ends) {
  machine.current = next;
  if (next != nullptr) {
    set_thread_index(next->index);
    if (&next->fiber == &from) {
      return;
    }
  }
  switch_fiber(from, next != nullptr ? next->fiber : machine.main, ends);
}

void check_return(const Thread& thread) {
  if (!thread.copies.empty()) {
    raise(FaultKind::kCopyNotWaited, "the thread returns with asynchronous copies it never waited for",
          thread.copies.front().code);
  }
  for (const Collective& collective : machine.warps[thread.warp].collectives) {
    if (collective.arrived != 0 && (collective.mask >> thread.lane & 1) != 0) {
      const Thread& waiting = machine.threads[thread.warp * kWarpLanes + __builtin_ctz(collective.arrived)];
      raise(FaultKind::kDivergentCollective,
            "the thread returns while lane " + std::to_string(waiting.lane) +
                " of its warp waits for it in " + collective.name,
            waiting.code, collective.site);
    }
  }
}

void thread_main() {
  fiber_started();
  Thread& thread = *machine.current;
  try {
    machine.launch->body(machine.launch->arguments);
  } catch (...) {
    kernel_exception = std::current_exception();
  }
  if (kernel_exception) {
    abandon_block();
  }
  check_return(thread);
  Warp& warp = machine.warps[thread.warp];
  thread.state = ThreadState::kReturned;
  warp.ready &= ~(1u << thread.lane);
  warp.returned |= 1u << thread.lane;
  --machine.running;
  switch_to(next_ready(), thread.fiber, true);
  __builtin_unreachable();
}

void start_threads() {
  const dim3 block = machine.launch->block;
  for (Warp& warp : machine.warps) {
    warp.exists = warp.ready = warp.returned = 0;
    warp.collectives.clear();
  }
  for (int i = 0; i < machine.thread_count; ++i) {
    Thread& thread = machine.threads[i];
    const auto n = static_cast<unsigned>(i);
    thread.index = {n % block.x, n / block.x % block.y, n / (block.x * block.y)};
    thread.number = i;
    thread.warp = i / kWarpLanes;
    thread.lane = i % kWarpLanes;
    thread.state = ThreadState::kReady;
    thread.copies.clear();
    thread.open_copy_group = 0;
    thread.log.clear();
    prepare_fiber(thread.fiber, thread_main);
    machine.warps[thread.warp].exists |= 1u << thread.lane;
    machine.warps[thread.warp].ready |= 1u << thread.lane;
  }
  machine.running = machine.thread_count;
  for (Barrier& barrier : machine.barriers) {
    barrier = {};
  }
}

// No thread can run and some have not returned: say where they are.
[[noreturn]] void report_deadlock() {
  std::map<std::string, int> places;
  const Thread* barrier = nullptr;
  const Thread* collective = nullptr;
  for (const Thread* thread = begin_threads(); thread != end_threads(); ++thread) {
    if (thread->state == ThreadState::kReturned) {
      ++places["returned"];
      continue;
    }
    const Thread*& first = thread->state == ThreadState::kAtBarrier ? barrier : collective;
    first = first != nullptr ? first : thread;
    ++places[std::string("wait in ") + thread->waits_in + " at " + thread->site.file + ":" +
             std::to_string(thread->site.line)];
  }
  std::string detail = collective != nullptr ? "not all lanes of the mask reach the warp collective:"
                                             : "not all threads reach the barrier:";
  const char* separator = " ";
  for (const auto& [place, count] : places) {
    detail += separator + std::to_string(count) + " " + place;
    separator = ", ";
  }
  const Thread& waiting = collective != nullptr ? *collective : *barrier;
  FaultRecord record;
  record.raised = true;
  record.kind = collective != nullptr ? FaultKind::kDivergentCollective : FaultKind::kBarrierNotReached;
  record.detail = detail;
  record.block = machine.block_index;
  record.thread = waiting.index;
  record.site = waiting.site;
  record.stack = {waiting.code};
  throw make_fault(record);
}

}  // namespace

void make_ready(Thread& thread) {
  thread.state = ThreadState::kReady;
  machine.warps[thread.warp].ready |= 1u << thread.lane;
}

void suspend(ThreadState state, const char* waits_in, Site site, const void* code) {
  Thread& thread = *machine.current;
  thread.state = state;
  thread.waits_in = waits_in;
  thread.site = site;
  thread.code = code;
  machine.warps[thread.warp].ready &= ~(1u << thread.lane);
  switch_to(next_ready(), thread.fiber, false);
}

void abandon_block() {
  switch_to(nullptr, machine.current->fiber, true);
  __builtin_unreachable();
}

void run_block() {
  start_threads();
  machine.fault.raised = false;
  kernel_exception = nullptr;
  switch_to(next_ready(), machine.main, false);
  if (kernel_exception) {
    std::rethrow_exception(std::exchange(kernel_exception, nullptr));
  }
  if (machine.fault.raised) {
    throw make_fault(machine.fault);
  }
  if (machine.running > 0) {
    report_deadlock();
  }
  count_logged_accesses();
}

}  // namespace emulator
