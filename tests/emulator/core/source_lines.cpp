#include "source_lines.h"

#include <dlfcn.h>
#include <unwind.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace emulator {
namespace {

constexpr int kMaxFrames = 32;

// The layers below a kernel: a fault seen in them is the fault of whoever called.
bool is_kernel_file(const std::string& file) {
  for (const char* layer :
       {"/emulator/include/", "/emulator/core/", "/cuda/device/", "/include/cuda", "/include/c++/"}) {
    if (file.find(layer) != std::string::npos) {
      return false;
    }
  }
  return !file.empty() && file[0] != '?';
}

// The lines of one address, innermost inlined function first.
std::vector<SourceLine> lines_of(const void* return_address) {
  std::vector<SourceLine> lines;
  Dl_info object{};
  // A return address is the instruction after the call, perhaps of another line: look one byte before.
  const auto address = reinterpret_cast<uintptr_t>(return_address) - 1;
  if (dladdr(reinterpret_cast<const void*>(address), &object) == 0 || object.dli_fname == nullptr) {
    return lines;
  }
  char command[4096];
  // Without LD_PRELOAD: a sanitizer's runtime preloaded into Python has no business in addr2line.
  std::snprintf(command, sizeof(command), "env -u LD_PRELOAD addr2line -i -e '%s' 0x%zx 2>/dev/null",
                object.dli_fname,
                static_cast<size_t>(address - reinterpret_cast<uintptr_t>(object.dli_fbase)));
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command, "r"), pclose);
  char line[4096];
  while (pipe && std::fgets(line, sizeof(line), pipe.get()) != nullptr) {
    if (char* colon = std::strrchr(line, ':')) {
      *colon = '\0';
      lines.push_back({line, std::atoi(colon + 1)});
    }
  }
  return lines;
}

struct Walk {
  const void* first;
  bool found;
  std::vector<const void*> stack;
};

_Unwind_Reason_Code visit(_Unwind_Context* context, void* argument) {
  auto& walk = *static_cast<Walk*>(argument);
  const auto* address = reinterpret_cast<const void*>(_Unwind_GetIP(context));
  walk.found = walk.found || address == walk.first;
  if (walk.found) {
    walk.stack.push_back(address);
  }
  return walk.stack.size() < kMaxFrames ? _URC_NO_REASON : _URC_END_OF_STACK;
}

}  // namespace

std::vector<const void*> stack_from(const void* code) {
  Walk walk{code, false, {}};
  _Unwind_Backtrace(visit, &walk);
  if (walk.stack.empty()) {
    walk.stack.push_back(code);
  }
  return walk.stack;
}

SourceLine kernel_line(const std::vector<const void*>& stack, Site site) {
  if (site.line > 0 && is_kernel_file(site.file)) {
    return {site.file, site.line};
  }
  for (const void* code : stack) {
    for (const SourceLine& line : lines_of(code)) {
      if (line.line > 0 && is_kernel_file(line.file)) {
        return line;
      }
    }
  }
  return {site.file, site.line};
}

}  // namespace emulator
