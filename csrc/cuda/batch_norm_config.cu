// The choice of batch_norm's kernels as text, for tests and tools: needs no device and no tensor.
#include <cstring>

#include "batch_norm_config.cuh"

extern "C" {

struct CnnextBatchNormProblem {
  int64_t n, c, hw, channels_last, value_bytes, aligned, multiprocessors;
};

// Writes at most `room` bytes with the closing 0. The last line names the config that runs, and its cut.
__attribute__((visibility("default"))) void cnnext_explain_batch_norm(const CnnextBatchNormProblem* problem,
                                                                      char* text, int64_t room) {
  const auto& p = *problem;
  const std::string answer = cnnext::explain_batch_norm_config(
      cnnext::batch_norm_problem(p.n, p.c, p.hw, p.channels_last != 0, static_cast<int>(p.value_bytes),
                                 p.aligned != 0, static_cast<int>(p.multiprocessors)));
  std::strncpy(text, answer.c_str(), static_cast<size_t>(room));
  if (room > 0) text[room - 1] = '\0';
}

// The names of the table, separated by spaces.
__attribute__((visibility("default"))) const char* cnnext_batch_norm_configs() {
  static const std::string names = [] {
    std::string all;
    for (const cnnext::BatchNormConfig& config : cnnext::kBatchNormConfigs) {
      all += (all.empty() ? "" : " ") + std::string(config.name);
    }
    return all;
  }();
  return names.c_str();
}

}  // extern "C"
