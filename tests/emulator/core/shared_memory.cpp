#include "shared_memory.h"

#include <emulator/memory.h>
#include <sys/mman.h>

#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "machine.h"
#include "regions.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) static_cast<void>(0)
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) static_cast<void>(0)
#endif

namespace emulator {
namespace {

constexpr size_t kDynamicBytes =
    256 * 1024;  // more than any device has; the launch checks the device's own limit
constexpr size_t kStaticBytes = 48 * 1024;
constexpr size_t kGapBytes = 128;  // between static objects: an access that leaves one does not find the next

struct StaticObject {
  const void* key;
  char* memory;
  size_t bytes;
};

char* arena = nullptr;  // [dynamic | static], 128-byte aligned as the device's
size_t dynamic_bytes = 0;
size_t static_used = 0;       // with gaps
size_t static_requested = 0;  // without: what the device's limit is about
std::vector<StaticObject> static_objects;

char* static_arena() { return arena + kDynamicBytes; }

}  // namespace

void open_shared_memory(size_t bytes) {
  constexpr size_t kArenaBytes = kDynamicBytes + 2 * kStaticBytes;  // twice, to have room for the gaps
  if (arena == nullptr) {
    void* pages = mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) {
      throw std::bad_alloc();
    }
    arena = static_cast<char*>(pages);
  }
  ASAN_POISON_MEMORY_REGION(arena, kArenaBytes);
  ASAN_UNPOISON_MEMORY_REGION(arena, bytes);
  dynamic_bytes = bytes;
  static_objects.clear();
  static_used = static_requested = 0;
  regions().add("dynamic shared memory", arena, bytes, Space::kShared, Use::kScratch, 4);
}

void poison_shared_memory() {
  std::memset(arena, 0xff, dynamic_bytes);
  for (const StaticObject& object : static_objects) {
    std::memset(object.memory, 0xff, object.bytes);
  }
}

void* dynamic_shared() { return arena; }

void* static_shared(const void* key, size_t bytes, size_t alignment) {
  for (const StaticObject& object : static_objects) {
    if (object.key == key) {
      return object.memory;
    }
  }
  static_requested += bytes;
  if (static_requested > kStaticBytes) {
    raise(FaultKind::kInvalidLaunch,
          std::to_string(static_requested) + " bytes of static shared memory: a block has at most 49152",
          __builtin_return_address(0));
  }
  char* memory = static_arena() + (static_used + alignment - 1) / alignment * alignment;
  static_used = static_cast<size_t>(memory - static_arena()) + bytes + kGapBytes;
  if (static_used > 2 * kStaticBytes) {
    raise(FaultKind::kInvalidLaunch, "too many static shared objects for the emulator",
          __builtin_return_address(0));
  }
  ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
  std::memset(memory, 0xff, bytes);
  static_objects.push_back({key, memory, bytes});
  regions().add("static shared memory", memory, bytes, Space::kShared, Use::kScratch, 4);
  return memory;
}

}  // namespace emulator
