// The entry for tests: runs one case on the arrays it is given.
#include "cases.cuh"

extern "C" __attribute__((visibility("default"))) void run_case(const char* name, void* const* arrays) {
  faults::cases().at(name)(arrays);
}
