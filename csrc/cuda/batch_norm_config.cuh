// How batch_norm's work is cut on CUDA, and which way its kernels walk: pure functions of shape, layout and
// device.
#pragma once

#include <initializer_list>
#include <string>

#include "device/device_limits.cuh"
#include "device/index_divider.cuh"

namespace cnnext {

inline constexpr int kBatchNormThreads = 256;
// Vectors that a thread has under way at once: more of eight values would take more registers than there are.
constexpr int batch_norm_batch(int vector) { return vector == 8 ? 2 : 4; }

enum class BatchNormAlgorithm {
  kChannels,  // NHWC: threads side by side over channels, and slices of them over the pixels
  kWarp,      // NCHW: a warp for a channel
  kBlock,     // NCHW: a block for a chunk of a channel
};

struct BatchNormConfig {
  const char* name;
  BatchNormAlgorithm algorithm;
  bool vectors;  // 16 bytes at once, else a value
};

// In order of preference.
inline constexpr BatchNormConfig kBatchNormConfigs[] = {
    {"channels_vectors", BatchNormAlgorithm::kChannels, true},
    {"channels", BatchNormAlgorithm::kChannels, false},
    {"warp_vectors", BatchNormAlgorithm::kWarp, true},
    {"block_vectors", BatchNormAlgorithm::kBlock, true},
    {"warp", BatchNormAlgorithm::kWarp, false},
    {"block", BatchNormAlgorithm::kBlock, false},
};

// The tensors are dense, [n, c, hw] or, where channels_last, [n, hw, c].
struct BatchNormProblem {
  int64_t n, c, hw;
  bool channels_last;
  int value_bytes;
  bool aligned;  // every tensor starts at a multiple of 16 bytes
  int multiprocessors;

  int64_t values() const { return n * hw; }  // of a channel
};

// One channel is one run of memory, and images of one pixel are rows of channels, whatever the layout is
// called.
inline BatchNormProblem batch_norm_problem(int64_t n, int64_t c, int64_t hw, bool channels_last,
                                           int value_bytes, bool aligned, int multiprocessors) {
  if (c == 1) return {1, 1, n * hw, false, value_bytes, aligned, multiprocessors};
  return {n, c, hw, channels_last || hw == 1, value_bytes, aligned, multiprocessors};
}

enum class BatchNormRefusal {
  kNone,
  kChannelsLast,
  kNchw,
  kOddChannels,
  kOddImage,
  kMisaligned,
  kManyValues
};

inline const char* describe(BatchNormRefusal refusal) {
  switch (refusal) {
    case BatchNormRefusal::kNone:
      return "chosen";
    case BatchNormRefusal::kChannelsLast:
      return "the channels of a pixel lie side by side (channels_last)";
    case BatchNormRefusal::kNchw:
      return "the pixels of a channel lie side by side (NCHW)";
    case BatchNormRefusal::kOddChannels:
      return "the channels are no multiple of a 16-byte vector";
    case BatchNormRefusal::kOddImage:
      return "the pixels of an image are no multiple of a 16-byte vector";
    case BatchNormRefusal::kMisaligned:
      return "a tensor does not start at a multiple of 16 bytes";
    case BatchNormRefusal::kManyValues:
      return "a channel has too many values for a warp, or there are too few channels";
  }
  return "";
}

// Values up to which a warp takes a channel by itself: a block would have two batches or less.
inline constexpr int64_t kWarpValues = 2048;

inline BatchNormRefusal refuse(const BatchNormProblem& problem, const BatchNormConfig& config) {
  const bool channels = config.algorithm == BatchNormAlgorithm::kChannels;
  if (channels != problem.channels_last) {
    return channels ? BatchNormRefusal::kNchw : BatchNormRefusal::kChannelsLast;
  }
  if (config.algorithm == BatchNormAlgorithm::kWarp) {
    if (problem.values() > kWarpValues || problem.c < 2) return BatchNormRefusal::kManyValues;
  }
  if (!config.vectors) return BatchNormRefusal::kNone;
  if ((channels ? problem.c : problem.hw) * problem.value_bytes % 16 != 0) {
    return channels ? BatchNormRefusal::kOddChannels : BatchNormRefusal::kOddImage;
  }
  return problem.aligned ? BatchNormRefusal::kNone : BatchNormRefusal::kMisaligned;
}

inline const BatchNormConfig& choose_batch_norm_config(const BatchNormProblem& problem) {
  for (const BatchNormConfig& config : kBatchNormConfigs) {
    if (refuse(problem, config) == BatchNormRefusal::kNone) return config;
  }
  return kBatchNormConfigs[5];  // not reached: one of "channels" and "block" runs any problem
}

// What the kernels are told: `chunks` chunks of `chunk` values of every channel, the last one shorter; a
// block has one chunk of one group of channels.
struct BatchNormPlan {
  int64_t c, hw, values;
  int64_t chunk;
  int chunks;
  int width;  // NHWC: threads side by side, a power of two up to 32. NCHW: threads of a channel, 32 or 256
  int64_t groups;  // of channels
  device::IndexDivider by_groups, by_hw;

  int64_t blocks() const { return groups * chunks; }
};

// Chunks are so long that every thread has a batch, and else so many that the device is full.
inline BatchNormPlan batch_norm_plan(const BatchNormProblem& problem, const BatchNormConfig& config) {
  const int vector = config.vectors ? 16 / problem.value_bytes : 1;
  int width;
  int64_t groups, least;  // the fewest values of a chunk
  if (config.algorithm == BatchNormAlgorithm::kChannels) {
    const int64_t vectors = problem.c / vector;
    for (width = 1; width < 32 && width < vectors;) width *= 2;
    groups = ceil_div<int64_t>(vectors, width);
    least = batch_norm_batch(vector) * (kBatchNormThreads / width);
  } else {
    width = config.algorithm == BatchNormAlgorithm::kWarp ? 32 : kBatchNormThreads;
    groups = ceil_div<int64_t>(problem.c, kBatchNormThreads / width);
    least = config.algorithm == BatchNormAlgorithm::kWarp
                ? problem.values()
                : int64_t{batch_norm_batch(vector)} * kBatchNormThreads * vector;
  }
  const int64_t values = problem.values();
  const int64_t wanted = ceil_div<int64_t>(4 * int64_t{problem.multiprocessors}, groups);
  const int64_t chunk = larger(round_up(ceil_div(values, wanted), least), least);
  return {problem.c,
          problem.hw,
          values,
          chunk,
          static_cast<int>(ceil_div(values, chunk)),
          width,
          groups,
          device::IndexDivider(groups),
          device::IndexDivider(problem.hw)};
}

inline std::string describe(const BatchNormProblem& problem) {
  return "n " + std::to_string(problem.n) + ", c " + std::to_string(problem.c) + ", pixels " +
         std::to_string(problem.hw) + (problem.channels_last ? ", channels_last" : ", NCHW") + "; " +
         std::to_string(problem.value_bytes) + "-byte values";
}

// The choice with every config passed over, one a line.
inline std::string explain_batch_norm_config(const BatchNormProblem& problem) {
  std::string text = describe(problem) + "\n";
  const BatchNormConfig& chosen = choose_batch_norm_config(problem);
  for (const BatchNormConfig& config : kBatchNormConfigs) {
    text += std::string(config.name) + ": " + describe(refuse(problem, config));
    if (&config == &chosen) break;
    text += "\n";
  }
  const BatchNormPlan plan = batch_norm_plan(problem, chosen);
  return text + ", " + std::to_string(plan.groups) + " groups of channels, " + std::to_string(plan.chunks) +
         " chunks of " + std::to_string(plan.chunk) + " values, " + std::to_string(plan.width) +
         " threads wide\n";
}

}  // namespace cnnext
