// The choice of a pool's kernel as text, for tests and tools: needs no device and no tensor.
#include <cstring>

#include "pool2d_config.cuh"

namespace {

struct Axis {
  int64_t size, windows, taps, stride, pad, dilation, adaptive;
};

cnnext::PoolAxis pool_axis(const Axis& axis) {
  if (axis.adaptive) return cnnext::adaptive_pool_axis(axis.size, axis.windows);
  return cnnext::uniform_pool_axis(axis.size, axis.windows, axis.taps, axis.stride, axis.pad, axis.dilation);
}

}  // namespace

extern "C" {

struct CnnextPoolProblem {
  int64_t planes, channels;
  Axis rows, columns;
  int64_t backward, is_sum, value_bytes, tap_bytes, aligned, multiprocessors;
};

// Writes at most `room` bytes with the closing 0. The last line names the config that runs.
__attribute__((visibility("default"))) void cnnext_explain_pool2d(const CnnextPoolProblem* problem,
                                                                  char* text, int64_t room) {
  const auto& p = *problem;
  const std::string answer =
      cnnext::explain_pool_config({{p.planes, p.channels, pool_axis(p.rows), pool_axis(p.columns)},
                                   p.backward != 0,
                                   p.is_sum != 0,
                                   static_cast<int>(p.value_bytes),
                                   static_cast<int>(p.tap_bytes),
                                   p.aligned != 0,
                                   static_cast<int>(p.multiprocessors)});
  std::strncpy(text, answer.c_str(), static_cast<size_t>(room));
  if (room > 0) text[room - 1] = '\0';
}

// n / divisor as the kernels calculate it.
__attribute__((visibility("default"))) int64_t cnnext_divide_index(int64_t n, int64_t divisor) {
  return cnnext::device::IndexDivider(divisor).divide(n);
}

// The names of the table, separated by spaces.
__attribute__((visibility("default"))) const char* cnnext_pool2d_configs() {
  static const std::string names = [] {
    std::string all;
    for (const cnnext::PoolConfig& config : cnnext::kPoolConfigs) {
      all += (all.empty() ? "" : " ") + std::string(config.name);
    }
    return all;
  }();
  return names.c_str();
}

}  // extern "C"
