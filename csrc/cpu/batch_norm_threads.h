// How batch_norm's work is cut and shared among threads on the CPU.
#pragma once

#include "batch_norm_kernel.h"
#include "parallel.h"
#include "workspace.h"

namespace cnnext {

// NCHW images up to this size go by columns if there are enough of them to pay for spreading the
// coefficients.
inline constexpr int64_t kSmallImage = 64, kLeastRows = 4;

// The walk through [n, c, hw] or [n, hw, c] that gives the kernels their longest inner loop.
inline BatchNormShape batch_norm_shape(int64_t n, int64_t c, int64_t hw, bool channels_last) {
  if (c == 1) return {1, 1, n * hw, false, 1};
  if (channels_last || hw == 1) return {n, c, hw, true, 1};
  if (hw <= kSmallImage && n >= kLeastRows && 2 * n >= hw) return {n, c * hw, 1, true, hw};
  return {n, c, hw, false, 1};
}

// At most kMostChunks pieces keep the merge cheap; pieces below kLeastChunk values do not repay it.
inline constexpr int64_t kMostChunks = 32, kLeastChunk = 8192;

// Small channels are finished some at a time, for their square roots and divisions to fill vectors.
inline constexpr int64_t kTogether = 16;

inline BatchNormChunks batch_norm_chunks(const BatchNormShape& shape) {
  const int64_t values = shape.values();
  const int64_t most = shape.channels_last ? kMostChunks : ceil_div(kMostChunks, 2 * shape.c);
  const int64_t least = shape.channels_last ? ceil_div(kLeastChunk, shape.c) : kLeastChunk;
  const int64_t length = larger(round_up(ceil_div(values, most), int64_t{16}), least);
  return {ceil_div(values, length), length};
}

// What the kernels keep per column, carved out of the calling thread's workspace.
template <typename C>
class BatchNormMemory {
 public:
  BatchNormMemory(int64_t c, const BatchNormChunks& chunks)
      : c_(c), next_(workspace<double>(c * (2 * chunks.count + kCoefficients + kParameters))) {
    partial = take(2 * chunks.count);
    coefficients = {take_compute(), take_compute(), take_compute(), take_compute(), take_compute()};
  }

  double* take_parameter() { return take(1); }

  double* partial;  // [chunks][2][c]
  BatchNormCoefficients<C> coefficients;

 private:
  static constexpr int64_t kCoefficients = 5, kParameters = 4;

  double* take(int64_t values_per_column) {
    double* taken = next_;
    next_ += values_per_column * c_;
    return taken;
  }
  C* take_compute() { return reinterpret_cast<C*>(take(1)); }

  int64_t c_;
  double* next_;
};

// Reduces, finishes and applies, the second pass from the end to the beginning, where the cache is still
// warm. NCHW with many channels goes channel by channel, so that the second pass finds everything in L2.
//   reduce(block, partial of its chunk)   finish(c_begin, c_end)   apply(block)
template <typename Reduce, typename Finish, typename Apply>
void reduce_then_apply(const BatchNormShape& shape, const BatchNormChunks& chunks, double* partial,
                       const Reduce& reduce, const Finish& finish, const Apply& apply) {
  const int64_t values = shape.values(), c = shape.c;
  if (!shape.channels_last && chunks.count == 1) {
    const int64_t together = larger<int64_t>(1, smaller(kTogether, kLeastChunk / values));
    return parallel_for(ceil_div(c, together), 2 * values * together, [&](int64_t begin, int64_t end) {
      for (int64_t group = begin; group < end; ++group) {
        const BatchNormBlock block{0, values, group * together, smaller((group + 1) * together, c)};
        reduce(block, partial);
        finish(block.c_begin, block.c_end);
        apply(block);
      }
    });
  }
  // A task is a chunk of all channels in NHWC, of one channel in NCHW.
  const int64_t per_chunk = shape.channels_last ? 1 : c, width = c / per_chunk;
  const int64_t tasks = chunks.count * per_chunk, operations = chunks.length * width;
  const auto block_of = [&](int64_t task) {
    const int64_t first = task / per_chunk * chunks.length, channel = task % per_chunk;
    return BatchNormBlock{first, smaller(first + chunks.length, values), channel, channel + width};
  };
  parallel_for(tasks, operations, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) reduce(block_of(task), partial + task / per_chunk * 2 * c);
  });
  finish(int64_t{0}, c);
  parallel_for(tasks, operations, [&](int64_t begin, int64_t end) {
    for (int64_t task = end; task-- > begin;) apply(block_of(task));
  });
}

// apply(block) over a whole tensor whose coefficients are known, in the order of memory.
template <typename Apply>
void apply_everywhere(const BatchNormShape& shape, const Apply& apply) {
  const int64_t c = shape.c, hw = shape.hw;
  if (shape.channels_last) {
    return parallel_for(shape.values(), c,
                        [&](int64_t begin, int64_t end) { apply(BatchNormBlock{begin, end, 0, c}); });
  }
  parallel_for(shape.n * c, hw, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end;) {
      const int64_t n = plane / c, planes = smaller(end - plane, c - plane % c);
      apply(BatchNormBlock{n * hw, (n + 1) * hw, plane % c, plane % c + planes});
      plane += planes;
    }
  });
}

}  // namespace cnnext
