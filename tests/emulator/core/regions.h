// Where a kernel may go: pieces of global memory that the launch declared or a test registered, the block's
// shared memory, and what is no concern of the checks (launch arguments, constant tables of the program).
#pragma once

#include <emulator/launch.h>
#include <emulator/qualifiers.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace emulator {

// One side of a possible race: who, when, where in the code.
struct Stamp {
  int32_t code;           // distance from the launch's body in the program's code
  uint32_t barrier_time;  // of the thread's warp
  uint32_t lane_time;     // of the thread among its warp
  int16_t thread;         // number in the block + 1; 0: nobody
  bool atomic;
};

// What is known of one granule of memory. All zero means: not touched in this launch.
struct Cell {
  Stamp write, read, other_read;  // the last write; the last read, and one by another warp if there was any
  uint32_t block;                 // serial number of the block that the stamps belong to
  bool written;
  bool copy_pending;
  bool read_by_other_blocks;
};

enum class Space : uint8_t { kGlobal, kShared, kOpaque };

struct FreeCells {
  void operator()(Cell* cells) const;
};

struct Region {
  std::string name;
  uintptr_t begin, end;
  Space space;
  Use use;
  int granule;  // bytes that a cell stands for; made smaller when an access asks for it
  std::unique_ptr<Cell[], FreeCells> cells;  // made at the first access

  bool contains(uintptr_t address) const { return address >= begin && address < end; }
  bool initialised() const { return use == Use::kInput || use == Use::kInOut; }

  // The cells of [address, address + bytes); `count` receives how many.
  Cell* cells_of(uintptr_t address, int bytes, int& count);

 private:
  void refine(int smaller_granule);
};

class Regions {
 public:
  // Where regions overlap the one added first is found.
  void add(std::string name, const void* begin, size_t bytes, Space space, Use use, int granule);
  void clear();

  // The region that holds `address`; null if there is none.
  Region* find(uintptr_t address);

  // "12 bytes after the end of x", for the region nearest to `address`.
  std::string nearest(uintptr_t address) const;

  std::vector<Region>& all() { return regions_; }

 private:
  std::vector<Region> regions_;
  size_t last_found_ = 0;
  bool overlap_ = false;
};

// The regions of the launch that runs.
Regions& regions();

// Global memory that launches may use without declaring it (kInOut), until it is released. For tests.
EMULATOR_API void register_global(const void* data, size_t bytes, const std::string& name);
EMULATOR_API void release_global(const void* data);
void add_registered_regions();

// Whether the address lies in a loaded object of the program (constant tables, __device__ variables); adds it
// as an opaque region if so.
bool add_program_region(uintptr_t address);

}  // namespace emulator
