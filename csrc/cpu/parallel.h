// The threads of a CPU kernel: torch's own pool, so that torch.set_num_threads() keeps its meaning.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

namespace cnnext {

// Work below this many elementary operations does not repay waking a second thread (about 5 µs).
inline constexpr int64_t kParallelGrain = 32768;

// run(begin, end) over [0, count), split among the threads when `operations_each` makes that worth while.
// The split depends on the number of threads: what a kernel computes for an index must not depend on it.
template <typename Run>
void parallel_for(int64_t count, int64_t operations_each, const Run& run) {
  if (count <= 0) return;
  const int64_t each = operations_each > 0 ? operations_each : 1;
  const int64_t grain = each >= kParallelGrain ? 1 : kParallelGrain / each;
  if (count <= grain) return run(int64_t{0}, count);
  torch::stable::parallel_for(0, count, grain, run);
}

}  // namespace cnnext
