// What the emulator reports, and how: a fault is recorded where it happens, on a fiber, and thrown from run()
// on the caller's own stack, so that no exception ever unwinds through a kernel.
#pragma once

#include <emulator/qualifiers.h>
#include <emulator/site.h>
#include <vector_types.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace emulator {

enum class FaultKind {
  kBarrierNotReached,    // some threads wait at a barrier that the others never reach
  kDivergentBarrier,     // threads wait at different barriers of the source
  kDivergentCollective,  // lanes named in a mask do not all reach the same warp collective
  kSharedMemoryRace,     // two threads, one of them writing, no barrier in between
  kGlobalMemoryRace,     // the same in global memory, also between blocks
  kUnwrittenRead,        // a read of shared or output memory that nobody wrote
  kOutOfBounds,          // an access outside everything the launch declared
  kInputWritten,         // a write to memory declared as input
  kOutputNotWritten,     // the launch left a part of an output as it was
  kCopyNotWaited,        // a cp.async whose data are used, or whose thread ends, before a wait
  kMisaligned,           // an access not aligned to its size
  kUndefinedValue,       // a shuffle from a lane that takes no part
  kInvalidLaunch,        // a launch the device would refuse
  kTrap,                 // the kernel called __trap()
};

EMULATOR_API const char* fault_name(FaultKind kind);

class EMULATOR_API Fault : public std::runtime_error {
 public:
  Fault(const std::string& text, FaultKind kind, std::string kernel, uint3 block, uint3 thread,
        std::string file, int line)
      : std::runtime_error(text),
        kind(kind),
        kernel(std::move(kernel)),
        block(block),
        thread(thread),
        file(std::move(file)),
        line(line) {}
  ~Fault() override;

  FaultKind kind;
  std::string kernel;
  uint3 block, thread;
  std::string file;  // empty where the fault has no place in the source
  int line;
};

// A second thread that has part in the fault (the other side of a race).
struct OtherAccess {
  const void* code = nullptr;
  uint3 thread{};
};

struct FaultRecord {
  bool raised = false;
  FaultKind kind{};
  std::string detail;
  uint3 block{}, thread{};
  Site site;
  std::vector<const void*> stack;  // return addresses, innermost first
  OtherAccess other;
};

// Ends the current fiber and with it the block. `code` is the return address in the kernel's code.
[[noreturn]] void raise(FaultKind kind, std::string detail, const void* code, Site site = {},
                        OtherAccess other = {});

// Turns a record into what is thrown: looks up source lines, adds the kernel and its config.
Fault make_fault(const FaultRecord& record);

}  // namespace emulator
