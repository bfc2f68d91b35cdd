// From code addresses to source lines, by addr2line.
#pragma once

#include <emulator/site.h>

#include <string>
#include <vector>

namespace emulator {

struct SourceLine {
  std::string file;
  int line = 0;

  std::string text() const { return file.empty() ? "an unknown line" : file + ":" + std::to_string(line); }
};

// The innermost line of the stack that belongs to a kernel and not to the device layer or the emulator;
// `site`, which the compiler recorded, is preferred where it is such a line.
SourceLine kernel_line(const std::vector<const void*>& stack, Site site);

// The return addresses from `code` outwards on the current stack.
std::vector<const void*> stack_from(const void* code);

}  // namespace emulator
