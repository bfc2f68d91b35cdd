#include "regions.h"

#include <link.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <new>

namespace emulator {
namespace {

struct Registered {
  size_t bytes;
  std::string name;
};

std::map<const void*, Registered>& registered() {
  static std::map<const void*, Registered> table;
  return table;
}

// calloc, so that the cells of memory that a launch never touches cost nothing.
Cell* allocate_cells(size_t count) {
  auto* cells = static_cast<Cell*>(std::calloc(count, sizeof(Cell)));
  if (cells == nullptr) {
    throw std::bad_alloc();
  }
  return cells;
}

struct ProgramSegment {
  uintptr_t address, begin, end;
};

int find_segment(dl_phdr_info* object, size_t, void* argument) {
  auto& wanted = *static_cast<ProgramSegment*>(argument);
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const auto& segment = object->dlpi_phdr[i];
    const uintptr_t begin = object->dlpi_addr + segment.p_vaddr;
    if (segment.p_type == PT_LOAD && wanted.address >= begin && wanted.address < begin + segment.p_memsz) {
      wanted.begin = begin;
      wanted.end = begin + segment.p_memsz;
      return 1;
    }
  }
  return 0;
}

}  // namespace

void FreeCells::operator()(Cell* cells) const { std::free(cells); }

void Region::refine(int smaller_granule) {
  const size_t old_count = (end - begin + granule - 1) / granule;
  const int ratio = granule / smaller_granule;
  Cell* finer = allocate_cells(old_count * ratio);
  for (size_t i = 0; i < old_count; ++i) {
    std::fill_n(finer + i * ratio, ratio, cells[i]);
  }
  cells.reset(finer);
  granule = smaller_granule;
}

Cell* Region::cells_of(uintptr_t address, int bytes, int& count) {
  if (!cells) {
    cells.reset(allocate_cells((end - begin + granule - 1) / granule));
  }
  const uintptr_t offset = address - begin;
  while (granule > 1 && (offset % granule != 0 || bytes % granule != 0)) {
    refine(granule / 2);
  }
  count = bytes / granule;
  return &cells[offset / granule];
}

void Regions::add(std::string name, const void* begin, size_t bytes, Space space, Use use, int granule) {
  if (begin == nullptr || bytes == 0) {
    return;
  }
  const auto address = reinterpret_cast<uintptr_t>(begin);
  for (const Region& region : regions_) {
    overlap_ |= address < region.end && region.begin < address + bytes;
  }
  regions_.push_back({std::move(name), address, address + bytes, space, use, granule, nullptr});
}

void Regions::clear() {
  regions_.clear();
  overlap_ = false;
}

Region* Regions::find(uintptr_t address) {
  // Accesses come in runs to one region; the short cut is wrong only where a region found first hides
  // another.
  if (!overlap_ && last_found_ < regions_.size() && regions_[last_found_].contains(address)) {
    return &regions_[last_found_];
  }
  for (size_t i = 0; i < regions_.size(); ++i) {
    if (regions_[i].contains(address)) {
      last_found_ = i;
      return &regions_[i];
    }
  }
  return nullptr;
}

std::string Regions::nearest(uintptr_t address) const {
  const Region* best = nullptr;
  uintptr_t best_distance = UINTPTR_MAX;
  for (const Region& region : regions_) {
    const uintptr_t distance = address < region.begin ? region.begin - address : address - region.end;
    if (region.space != Space::kOpaque && distance < best_distance) {
      best = &region;
      best_distance = distance;
    }
  }
  if (best == nullptr) {
    return "the launch declares no memory";
  }
  return std::to_string(best_distance) + " bytes " +
         (address < best->begin ? "before the start of " : "after the end of ") + best->name;
}

Regions& regions() {
  static Regions instance;
  return instance;
}

void register_global(const void* data, size_t bytes, const std::string& name) {
  registered()[data] = {bytes, name};
}

void release_global(const void* data) { registered().erase(data); }

void add_registered_regions() {
  for (const auto& [data, memory] : registered()) {
    regions().add(memory.name, data, memory.bytes, Space::kGlobal, Use::kInOut, 4);
  }
}

bool add_program_region(uintptr_t address) {
  ProgramSegment segment{address, 0, 0};
  if (dl_iterate_phdr(find_segment, &segment) == 0) {
    return false;
  }
  regions().add("the program", reinterpret_cast<const void*>(segment.begin), segment.end - segment.begin,
                Space::kOpaque, Use::kInOut, 1);
  return true;
}

}  // namespace emulator
