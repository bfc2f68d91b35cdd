// Which kernel runs a pass of a pool, and in which tiles: a pure function of shape, layout and device, that
// says why it passed over the others.
#pragma once

#include <string>

#include "device/device_limits.cuh"
#include "device/launch.cuh"
#include "pool2d_plan.cuh"

namespace cnnext {

enum class PoolAlgorithm {
  kChannels,  // NHWC: a thread for 16 bytes of channels
  kStaged,    // NCHW: a block for some rows, whose source it copies to shared memory
  kWarp,      // NCHW: a warp for each large window
  kSlices,    // NHWC: a block for some channels of each large window, which its warps divide among them
  kDirect,    // a thread for each value
};

struct PoolConfig {
  const char* name;
  PoolAlgorithm algorithm;
  int tile;  // kStaged: values of the target that a block aims at
};

// In order of preference.
inline constexpr PoolConfig kPoolConfigs[] = {
    {"slices", PoolAlgorithm::kSlices, 0},         {"channels", PoolAlgorithm::kChannels, 0},
    {"staged_1024", PoolAlgorithm::kStaged, 1024}, {"staged_256", PoolAlgorithm::kStaged, 256},
    {"staged_64", PoolAlgorithm::kStaged, 64},     {"warp", PoolAlgorithm::kWarp, 0},
    {"direct", PoolAlgorithm::kDirect, 0},
};
inline constexpr int kPoolConfigCount = sizeof(kPoolConfigs) / sizeof(kPoolConfigs[0]);

// A block's share of shared memory: at least four blocks fit on a multiprocessor of every device.
inline constexpr int64_t kStagedBytes = 16 * 1024;
// Windows from this size on are worth several threads.
inline constexpr int64_t kLargeWindow = 32;

struct PoolProblem {
  PoolPlan plan;
  bool backward;
  bool is_sum;      // averages; a maximum has one order of its taps
  int value_bytes;  // of an element
  int tap_bytes;    // of max_pool2d's tap; 0: the pass has none
  bool aligned;     // every tensor starts at a multiple of 16 bytes
  int multiprocessors;
};

enum class PoolRefusal {
  kNone,
  kOneChannel,
  kManyChannels,
  kOddChannels,
  kMisaligned,
  kWideTap,
  kTooLarge,
  kTooFewBlocks,
  kIdleThreads,
  kNotASum,
  kSmallWindow,
  kManyWindows,
  kEmpty,
};

inline const char* describe(PoolRefusal refusal) {
  switch (refusal) {
    case PoolRefusal::kNone:
      return "chosen";
    case PoolRefusal::kOneChannel:
      return "a pixel has one channel (NCHW)";
    case PoolRefusal::kManyChannels:
      return "a pixel has several channels (channels_last)";
    case PoolRefusal::kOddChannels:
      return "the channels are no multiple of a 16-byte vector";
    case PoolRefusal::kMisaligned:
      return "a tensor does not start at a multiple of 16 bytes";
    case PoolRefusal::kWideTap:
      return "windows of more than 256 taps have taps of 32 bits";
    case PoolRefusal::kTooLarge:
      return "the rows under a block take too much shared memory";
    case PoolRefusal::kTooFewBlocks:
      return "too few blocks for the multiprocessors";
    case PoolRefusal::kIdleThreads:
      return "a block would have a few large windows, each the work of one thread";
    case PoolRefusal::kNotASum:
      return "only the forward pass of an average is divided among threads";
    case PoolRefusal::kSmallWindow:
      return "windows of few pixels are no work for several threads";
    case PoolRefusal::kManyWindows:
      return "there are windows enough for one thread each";
    case PoolRefusal::kEmpty:
      return "there is no source";
  }
  return "";
}

// The most source rows that `rows` rows of the target can have under them, from the worst place to start at.
inline int64_t staged_rows(const PoolAxis& axis, bool backward, int64_t rows) {
  const int64_t sources = backward ? axis.windows : axis.size, targets = backward ? axis.size : axis.windows;
  const int64_t crossings = ceil_div(rows - 1, targets);  // from one plane to the next
  int64_t most;
  if (axis.adaptive) {
    most = ceil_div(rows * sources, targets) + 2;
  } else if (backward) {
    const int64_t left_over = sources - targets / axis.stride;
    most = (rows - 1 + axis.reach) / axis.stride + 2 + crossings * larger<int64_t>(0, left_over);
  } else {
    const int64_t left_over = sources - targets * axis.stride;
    most = (rows - 1) * axis.stride + axis.reach + 1 + crossings * larger<int64_t>(0, left_over);
  }
  return smaller(most, (crossings + 1) * sources);
}

inline PoolTiles pool_tiles(const PoolProblem& problem, const PoolConfig& config) {
  const PoolAxis &rows = problem.plan.rows, &columns = problem.plan.columns;
  const int height = problem.backward ? rows.size : rows.windows;
  const int width = problem.backward ? columns.size : columns.windows;
  const int64_t total = problem.plan.planes * height;
  const int64_t per_block = smaller<int64_t>(larger(1, config.tile / width), total);
  return {total, static_cast<int>(per_block),
          static_cast<int>(smaller<int64_t>(staged_rows(rows, problem.backward, per_block), INT32_MAX)),
          device::IndexDivider(height), device::IndexDivider(width)};
}

inline int64_t staged_elements(const PoolProblem& problem, const PoolTiles& tiles) {
  const PoolAxis& columns = problem.plan.columns;
  return int64_t{tiles.source_rows} * (problem.backward ? columns.windows : columns.size);
}

// Shared memory of a block: values, and on the way back the taps.
inline int64_t staged_total_bytes(const PoolProblem& problem, const PoolTiles& tiles) {
  const int64_t elements = staged_elements(problem, tiles);
  const int64_t taps = problem.backward ? problem.tap_bytes : 0;
  return staged_bytes(elements, problem.value_bytes) + (taps > 0 ? staged_bytes(elements, taps) : 0);
}

inline int64_t window_pixels(const PoolPlan& plan) {
  return smaller<int64_t>(plan.rows.taps, plan.rows.size) *
         smaller<int64_t>(plan.columns.taps, plan.columns.size);
}

inline PoolRefusal refuse_staged(const PoolProblem& problem, const PoolConfig& config) {
  if (problem.plan.channels > 1) return PoolRefusal::kManyChannels;
  if (problem.tap_bytes > 1) return PoolRefusal::kWideTap;
  if (!problem.aligned) return PoolRefusal::kMisaligned;
  if (problem.plan.pixels() == 0 || problem.plan.outputs() == 0) return PoolRefusal::kEmpty;
  const PoolTiles tiles = pool_tiles(problem, config);
  if (staged_total_bytes(problem, tiles) > kStagedBytes) return PoolRefusal::kTooLarge;
  const int64_t targets = int64_t{tiles.rows_per_block} * tiles.target_columns.divisor();
  if (!problem.backward && targets < device::kWarpSize && window_pixels(problem.plan) >= kLargeWindow) {
    return PoolRefusal::kIdleThreads;
  }
  const bool smallest = config.tile == 64;
  const int64_t wanted = 4 * int64_t{problem.multiprocessors};  // two waves of two blocks, at the least
  if (!smallest && ceil_div<int64_t>(tiles.rows, tiles.rows_per_block) < wanted)
    return PoolRefusal::kTooFewBlocks;
  return PoolRefusal::kNone;
}

// Windows so large and so few that one thread each would leave the device empty.
inline PoolRefusal refuse_shared_window(const PoolProblem& problem) {
  if (!problem.is_sum || problem.backward) return PoolRefusal::kNotASum;
  if (window_pixels(problem.plan) < kLargeWindow) return PoolRefusal::kSmallWindow;
  const int64_t threads = int64_t{problem.multiprocessors} * 2048;
  return problem.plan.outputs() / 4 > threads ? PoolRefusal::kManyWindows : PoolRefusal::kNone;
}

inline PoolRefusal refuse(const PoolProblem& problem, const PoolConfig& config) {
  const PoolPlan& plan = problem.plan;
  switch (config.algorithm) {
    case PoolAlgorithm::kChannels:
    case PoolAlgorithm::kSlices:
      if (plan.channels == 1) return PoolRefusal::kOneChannel;
      if (config.algorithm == PoolAlgorithm::kSlices) {
        if (const PoolRefusal refusal = refuse_shared_window(problem); refusal != PoolRefusal::kNone)
          return refusal;
      }
      if (plan.channels * problem.value_bytes % 16 != 0) return PoolRefusal::kOddChannels;
      if (problem.tap_bytes > 1) return PoolRefusal::kWideTap;
      return problem.aligned ? PoolRefusal::kNone : PoolRefusal::kMisaligned;
    case PoolAlgorithm::kStaged:
      return refuse_staged(problem, config);
    case PoolAlgorithm::kWarp:
      return plan.channels > 1 ? PoolRefusal::kManyChannels : refuse_shared_window(problem);
    case PoolAlgorithm::kDirect:
      break;
  }
  return PoolRefusal::kNone;
}

inline const PoolConfig& choose_pool_config(const PoolProblem& problem) {
  for (const PoolConfig& config : kPoolConfigs) {
    if (refuse(problem, config) == PoolRefusal::kNone) return config;
  }
  return kPoolConfigs[kPoolConfigCount - 1];
}

inline std::string describe(const PoolProblem& problem) {
  const PoolPlan& plan = problem.plan;
  const auto axis = [](const PoolAxis& a) {
    return std::to_string(a.size) + " pixels, " + std::to_string(a.windows) + " windows" +
           (a.adaptive
                ? " (adaptive)"
                : ", kernel " + std::to_string(a.taps) + ", stride " + std::to_string(a.stride) +
                      ", padding " + std::to_string(a.pad) + ", dilation " + std::to_string(a.dilation));
  };
  return std::string(problem.backward ? "backward, " : "forward, ") + std::to_string(plan.planes) +
         " planes of " + std::to_string(plan.channels) + " channels, rows: " + axis(plan.rows) +
         "; columns: " + axis(plan.columns) + "; " + std::to_string(problem.value_bytes) + "-byte values";
}

// ---- launches ----

inline bool are_aligned(std::initializer_list<const void*> tensors) {
  for (const void* tensor : tensors) {
    if (reinterpret_cast<uintptr_t>(tensor) % 16 != 0) return false;
  }
  return true;
}

inline device::LaunchConfig direct_launch(const char* kernel, int64_t threads, cudaStream_t stream) {
  return {kernel, dim3(static_cast<unsigned>(ceil_div<int64_t>(threads, kPoolThreads))), dim3(kPoolThreads),
          0, stream};
}

inline device::LaunchConfig staged_launch(const char* kernel, const PoolProblem& problem,
                                          const PoolTiles& tiles, cudaStream_t stream) {
  return {kernel, dim3(static_cast<unsigned>(ceil_div<int64_t>(tiles.rows, tiles.rows_per_block))),
          dim3(kPoolThreads), static_cast<size_t>(staged_total_bytes(problem, tiles)), stream};
}

// The choice with every config passed over, one a line.
inline std::string explain_pool_config(const PoolProblem& problem) {
  std::string text = describe(problem) + "\n";
  const PoolConfig& chosen = choose_pool_config(problem);
  for (const PoolConfig& config : kPoolConfigs) {
    text += std::string(config.name) + ": " + describe(refuse(problem, config)) + "\n";
    if (&config == &chosen) break;
  }
  return text;
}

}  // namespace cnnext
