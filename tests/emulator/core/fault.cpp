#include "fault.h"

#include "machine.h"
#include "scheduler.h"
#include "source_lines.h"

namespace emulator {

Fault::~Fault() = default;

const char* fault_name(FaultKind kind) {
  switch (kind) {
    case FaultKind::kBarrierNotReached:
      return "barrier_not_reached";
    case FaultKind::kDivergentBarrier:
      return "divergent_barrier";
    case FaultKind::kDivergentCollective:
      return "divergent_collective";
    case FaultKind::kSharedMemoryRace:
      return "shared_memory_race";
    case FaultKind::kGlobalMemoryRace:
      return "global_memory_race";
    case FaultKind::kUnwrittenRead:
      return "unwritten_read";
    case FaultKind::kOutOfBounds:
      return "out_of_bounds";
    case FaultKind::kInputWritten:
      return "input_written";
    case FaultKind::kOutputNotWritten:
      return "output_not_written";
    case FaultKind::kCopyNotWaited:
      return "copy_not_waited";
    case FaultKind::kMisaligned:
      return "misaligned";
    case FaultKind::kUndefinedValue:
      return "undefined_value";
    case FaultKind::kInvalidLaunch:
      return "invalid_launch";
    case FaultKind::kTrap:
      return "trap";
  }
  return "unknown";
}

void raise(FaultKind kind, std::string detail, const void* code, Site site, OtherAccess other) {
  FaultRecord record;
  record.raised = true;
  record.kind = kind;
  record.detail = std::move(detail);
  record.block = machine.block_index;
  record.site = site;
  record.other = other;
  if (machine.current == nullptr) {
    throw make_fault(record);
  }
  record.thread = machine.current->index;
  record.stack = stack_from(code);
  machine.fault = std::move(record);
  abandon_block();
}

Fault make_fault(const FaultRecord& record) {
  const auto triple = [](uint3 i) {
    return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
  };
  const Launch& launch = *machine.launch;
  const SourceLine line = kernel_line(record.stack, record.site);
  std::string text = std::string(fault_name(record.kind)) + " in block " + triple(record.block) +
                     ", thread " + triple(record.thread) + ", at " + line.text() + ": " + record.detail;
  if (record.other.code != nullptr) {
    text += "; the other access is by thread " + triple(record.other.thread) + " at " +
            kernel_line({record.other.code}, {}).text();
  }
  text += "\n  launch of " + launch.describe(launch.describe_context);
  return Fault(text, record.kind, launch.kernel, record.block, record.thread, line.file, line.line);
}

}  // namespace emulator
