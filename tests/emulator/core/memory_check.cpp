#include "memory_check.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "machine.h"
#include "regions.h"
#include "shared_memory.h"

namespace emulator {
namespace {

// __threadfence and the atomic that follows it in another block order the two blocks. Kept as one bit for
// each block and one for the current block: a fence publishes everything its block has written, an atomic
// acquires it.
std::vector<bool> published_blocks;
uint32_t first_block_serial = 0;
bool current_block_acquired = false;

bool is_write(Access access) { return access != Access::kRead; }

const void* code_of(const Stamp& stamp) {
  return reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(machine.launch->body)) + stamp.code;
}

Stamp stamp_now(const Thread& thread, Access access, const void* code) {
  Stamp stamp;
  stamp.code = static_cast<int32_t>(reinterpret_cast<intptr_t>(code) -
                                    reinterpret_cast<intptr_t>(machine.launch->body));
  stamp.barrier_time = machine.clocks.known[thread.warp][thread.warp];
  stamp.lane_time = machine.clocks.lanes[thread.warp][thread.lane][thread.lane];
  stamp.thread = static_cast<int16_t>(thread.number + 1);
  stamp.atomic = access == Access::kAtomic;
  return stamp;
}

// Whether the access behind the stamp comes before everything `thread` does now.
bool happened_before(const Stamp& stamp, const Thread& thread) {
  const int other = stamp.thread - 1;
  if (other < 0 || other == thread.number) {
    return true;
  }
  const int warp = other / kWarpLanes;
  return machine.clocks.known[thread.warp][warp] > stamp.barrier_time ||
         (warp == thread.warp &&
          machine.clocks.lanes[warp][thread.lane][other % kWarpLanes] > stamp.lane_time);
}

std::string place(const Region& region, uintptr_t address) {
  return "byte " + std::to_string(address - region.begin) + " of " + region.name;
}

[[noreturn]] void raise_race(const Region& region, uintptr_t address, Access access, const char* before,
                             const Stamp& stamp, const void* code) {
  const bool shared = region.space == Space::kShared;
  const Thread& other = machine.threads[stamp.thread - 1];
  raise(shared ? FaultKind::kSharedMemoryRace : FaultKind::kGlobalMemoryRace,
        std::string(is_write(access) ? "writes " : "reads ") + place(region, address) +
            ", which another thread " + before + ", with no barrier in between",
        code, {}, {code_of(stamp), other.index});
}

void check_race_in_block(const Region& region, const Cell& cell, uintptr_t address, Access access,
                         const void* code) {
  const Thread& thread = *machine.current;
  const bool both_atomic = access == Access::kAtomic && cell.write.atomic;
  if (!both_atomic && !happened_before(cell.write, thread)) {
    raise_race(region, address, access, "writes", cell.write, code);
  }
  if (!is_write(access)) {
    return;
  }
  for (const Stamp* read : {&cell.read, &cell.other_read}) {
    if (!happened_before(*read, thread)) {
      raise_race(region, address, access, "reads", *read, code);
    }
  }
}

// The cell was last used by another block of this launch: blocks run in no order.
void check_race_between_blocks(const Region& region, const Cell& cell, uintptr_t address, Access access,
                               const void* code) {
  const bool ordered = current_block_acquired && published_blocks[cell.block - first_block_serial];
  const bool both_atomic = access == Access::kAtomic && cell.write.atomic;
  const bool wrote = cell.write.thread != 0 && !both_atomic;
  const bool read = cell.read.thread != 0 || cell.read_by_other_blocks;
  if (!ordered && (wrote || (is_write(access) && read))) {
    raise(
        FaultKind::kGlobalMemoryRace,
        std::string(is_write(access) ? "writes " : "reads ") + place(region, address) +
            ", which another block " + (wrote ? "writes" : "reads") + ": blocks run in no order",
        code, {},
        {code_of(wrote ? cell.write : cell.read), machine.threads[std::max(0, cell.write.thread - 1)].index});
  }
}

// Brings the cell to the current block, checking against the block that used it before.
void enter_block(const Region& region, Cell& cell, uintptr_t address, Access access, const void* code) {
  if (region.space == Space::kShared) {
    cell = Cell{};  // every block starts with shared memory that nobody has written
  } else if (cell.block != 0) {
    check_race_between_blocks(region, cell, address, access, code);
    cell.read_by_other_blocks |= cell.read.thread != 0;
    cell.write = cell.read = cell.other_read = Stamp{};
  }
  cell.block = machine.block_serial;
}

void record_read(Cell& cell, const Stamp& stamp) {
  const auto warp = [](const Stamp& s) { return (s.thread - 1) / kWarpLanes; };
  // Two readers are remembered, of two warps if there are two: whoever writes next is at odds with one of
  // them.
  if (cell.read.thread != 0 && cell.read.thread != stamp.thread &&
      (cell.other_read.thread == 0 || warp(cell.read) != warp(stamp))) {
    cell.other_read = cell.read;
  }
  cell.read = stamp;
}

void check_cell(Region& region, Cell& cell, uintptr_t address, Access access, const Stamp& stamp,
                const void* code) {
  if (cell.block != machine.block_serial) {
    enter_block(region, cell, address, access, code);
  }
  if (cell.copy_pending && access != Access::kCopyArrived) {
    raise(FaultKind::kCopyNotWaited,
          std::string(is_write(access) ? "writes " : "reads ") + place(region, address) +
              ", where an asynchronous copy is still under way",
          code, {}, {code_of(cell.write), machine.threads[cell.write.thread - 1].index});
  }
  check_race_in_block(region, cell, address, access, code);
  if (access == Access::kRead || access == Access::kAtomic) {
    if (!cell.written && !region.initialised()) {
      raise(FaultKind::kUnwrittenRead, "reads " + place(region, address) + ", which nobody has written",
            code);
    }
  }
  if (access == Access::kRead) {
    record_read(cell, stamp);
  } else {
    cell.write = stamp;
    cell.written = true;
    cell.copy_pending = access == Access::kCopyIssued;
  }
}

[[noreturn]] void raise_out_of_bounds(uintptr_t address, int bytes, Access access, const void* code) {
  raise(FaultKind::kOutOfBounds,
        std::string(is_write(access) ? "writes " : "reads ") + std::to_string(bytes) +
            " bytes outside every tensor, " + regions().nearest(address),
        code);
}

Region& find_region(uintptr_t address, int bytes, Access access, const void* code) {
  Region* region = regions().find(address);
  if (region == nullptr && add_program_region(address)) {
    region = regions().find(address);
  }
  if (region == nullptr) {
    raise_out_of_bounds(address, bytes, access, code);
  }
  if (address + bytes > region->end) {
    raise_out_of_bounds(region->end, static_cast<int>(address + bytes - region->end), access, code);
  }
  return *region;
}

void trace_access(Thread& thread, const void* memory, int bytes, Access access, const void* code,
                  bool count) {
  const auto address = reinterpret_cast<uintptr_t>(memory);
  const auto stack = reinterpret_cast<uintptr_t>(thread.fiber.stack);
  if (address >= stack && address < stack + kFiberStackBytes) {
    return;  // a local variable, in registers on the device
  }
  Region& region = find_region(address, bytes, access, code);
  if (region.space == Space::kOpaque) {
    return;
  }
  if (is_write(access) && region.use == Use::kInput) {
    raise(FaultKind::kInputWritten,
          "writes " + place(region, address) + ", which the launch declares as input", code);
  }
  current_block_acquired |= access == Access::kAtomic;
  const Stamp stamp = stamp_now(thread, access, code);
  int count_of_cells = 0;
  Cell* cells = region.cells_of(address, bytes, count_of_cells);
  for (int i = 0; i < count_of_cells; ++i) {
    check_cell(region, cells[i], address + static_cast<uintptr_t>(i) * region.granule, access, stamp, code);
  }
  if (count && machine.sampled && access != Access::kAtomic && access != Access::kCopyArrived) {
    thread.log.push_back(
        {code, address, static_cast<uint16_t>(bytes), is_write(access), region.space == Space::kShared});
  }
}

}  // namespace

bool tracing() { return machine.settings.tracing && machine.launch->traced; }

void check_access(const void* memory, int bytes, Access access, const void* code) {
  if (machine.current != nullptr && tracing()) {
    trace_access(*machine.current, memory, bytes, access, code, true);
  }
}

void check_access_of_lane(int lane, const void* memory, int bytes, const void* code) {
  if (tracing()) {
    Thread& thread = machine.threads[machine.current->warp * kWarpLanes + lane];
    Thread* const asking = machine.current;
    machine.current = &thread;  // the race check looks at the lane that gave the address
    trace_access(thread, memory, bytes, Access::kRead, code, false);
    machine.current = asking;
  }
}

void open_launch_memory(const Launch& launch) {
  regions().clear();
  published_blocks.clear();
  first_block_serial = machine.block_serial + 1;
  regions().add("the launch arguments", launch.arguments, launch.argument_bytes, Space::kOpaque, Use::kInput,
                1);
  for (int i = 0; i < launch.memory_count; ++i) {
    const Memory& memory = launch.memory[i];
    const int granule = std::clamp(static_cast<int>(memory.element_bytes), 1, 8);
    regions().add(memory.name, memory.data, memory.bytes, Space::kGlobal, memory.use, granule);
    if (memory.data != nullptr && (memory.use == Use::kOutput || memory.use == Use::kScratch)) {
      // NaN in every floating-point format: a read before the write shows in the result even without tracing.
      std::memset(const_cast<void*>(memory.data), 0xff, memory.bytes);
    }
  }
  add_registered_regions();
  open_shared_memory(launch.dynamic_shared_bytes);
}

void open_block_memory() {
  published_blocks.push_back(false);
  current_block_acquired = false;
  poison_shared_memory();
}

void close_launch_memory() { regions().clear(); }

void publish_block() { published_blocks.back() = true; }

void check_outputs_written() {
  for (Region& region : regions().all()) {
    if (region.space != Space::kGlobal || region.use != Use::kOutput) {
      continue;
    }
    int count = 0;
    for (uintptr_t address = region.begin; address + region.granule <= region.end;
         address += region.granule) {
      if (!region.cells_of(address, region.granule, count)->written) {
        raise(FaultKind::kOutputNotWritten, "the launch never writes " + place(region, address), nullptr);
      }
    }
  }
}

}  // namespace emulator
