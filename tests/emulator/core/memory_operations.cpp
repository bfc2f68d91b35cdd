// cp.async, atomics and vector accesses: device operations on memory that the compiler does not instrument.
#include <emulator/atomics.h>
#include <emulator/memory.h>

#include <cstdint>
#include <cstring>
#include <string>

#include "machine.h"
#include "memory_check.h"

namespace emulator {
namespace {

void check_alignment(const void* memory, int bytes, const char* operation, const void* code) {
  const auto misaligned = reinterpret_cast<uintptr_t>(memory) % static_cast<uintptr_t>(bytes);
  if (misaligned != 0) {
    raise(FaultKind::kMisaligned,
          std::string(operation) + " of " + std::to_string(bytes) + " bytes at an address " +
              std::to_string(misaligned) + " past a multiple of " + std::to_string(bytes),
          code);
  }
}

}  // namespace

void load_vector(void* registers, const void* memory, int bytes) {
  const void* code = __builtin_return_address(0);
  check_alignment(memory, bytes, "a vector load", code);
  check_access(memory, bytes, Access::kRead, code);
  std::memcpy(registers, memory, static_cast<size_t>(bytes));
}

void store_vector(void* memory, const void* registers, int bytes) {
  const void* code = __builtin_return_address(0);
  check_alignment(memory, bytes, "a vector store", code);
  check_access(memory, bytes, Access::kWrite, code);
  std::memcpy(memory, registers, static_cast<size_t>(bytes));
}

void atomic_access(void* memory, int bytes, const void* code) {
  check_alignment(memory, bytes, "an atomic operation", code);
  check_access(memory, bytes, Access::kAtomic, code);
  ++machine.counters->atomics;
}

void async_copy(void* shared, const void* global, int bytes, int valid_bytes) {
  const void* code = __builtin_return_address(0);
  check_alignment(shared, bytes, "an asynchronous copy", code);
  check_access(shared, bytes, Access::kCopyIssued, code);
  if (valid_bytes > 0) {
    check_alignment(global, bytes, "an asynchronous copy", code);
    check_access(global, valid_bytes, Access::kRead, code);
  }
  std::memset(shared, 0xff, static_cast<size_t>(bytes));
  Thread& thread = *machine.current;
  thread.copies.push_back({shared, global, bytes, valid_bytes, thread.open_copy_group, code});
  ++machine.counters->async_copies;
  machine.counters->async_copy_bytes += static_cast<uint64_t>(valid_bytes);
}

void async_copy_commit() { ++machine.current->open_copy_group; }

void async_copy_wait(int groups_left) {
  Thread& thread = *machine.current;
  // The group still open counts for none: its copies are waited for only after its commit.
  const int first_group_left = thread.open_copy_group - groups_left;
  auto copy = thread.copies.begin();
  for (; copy != thread.copies.end() && copy->group < first_group_left; ++copy) {
    check_access(copy->shared, copy->bytes, Access::kCopyArrived, copy->code);
    std::memcpy(copy->shared, copy->global, static_cast<size_t>(copy->valid_bytes));
    std::memset(static_cast<char*>(copy->shared) + copy->valid_bytes, 0,
                static_cast<size_t>(copy->bytes - copy->valid_bytes));
  }
  thread.copies.erase(thread.copies.begin(), copy);
}

}  // namespace emulator
