// Where the weight gradient's taps lie in the packed input, and in which order its sums stand.
#pragma once

#include "conv2d_direct_taps.h"
#include "conv2d_direct_weight_plan.h"

namespace cnnext::CNNEXT_ISA {

struct TapLists {
  int64_t* offsets;  // of every tap, or with lanes over output channels of every run of taps
  int64_t* lengths;  // of the runs
  int64_t* places;   // (c·R + r)·S + s of every sum of an output channel
  int64_t runs;
};

static int64_t offset_of(const GatherPlan& x, int64_t c, int64_t r, int64_t s) {
  const int64_t row = r * x.h.dilation, col = s * x.w.dilation, step = x.w.source_step;
  if (x.lanes == DirectLanes::depthwise) return row * x.row_pitch + col * x.vector;
  return c * x.plane + row * x.row_pitch + col % step * x.phase_pitch + col / step;
}

static void list_taps(const WeightGradPlan& plan, TapLists& lists) {
  const GatherPlan& x = plan.x;
  for (int64_t i = 0; i < plan.taps(); ++i) {
    lists.places[i] = i;
    lists.offsets[i] = offset_of(x, i / x.taps(), i % x.taps() / x.w.taps, i % x.w.taps);
  }
}

// Runs of neighbouring taps, the longest first, so that runs of one length lie together.
static void list_runs(const WeightGradPlan& plan, TapLists& lists) {
  const GatherPlan& x = plan.x;
  const int64_t step = x.w.source_step;
  // Taps s, s + hop, … lie side by side in the packed row; other taps only meet themselves.
  const int64_t hop = step % x.w.dilation == 0 ? step / x.w.dilation : x.w.taps;
  int64_t sum = 0;
  for (int64_t length = kLongestRun; length >= 1; --length) {
    for (int64_t i = 0; i < x.in * x.h.taps; ++i) {
      for (int64_t first = 0; first < smaller(hop, x.w.taps); ++first) {
        int64_t rest = ceil_div(x.w.taps - first, hop);
        for (int64_t s = first; rest > 0;) {
          const int64_t taken = smaller<int64_t>(rest, kLongestRun);
          if (taken == length) {
            lists.offsets[lists.runs] = offset_of(x, i / x.h.taps, i % x.h.taps, s);
            lists.lengths[lists.runs++] = length;
            for (int64_t t = 0; t < length; ++t) lists.places[sum++] = i * x.w.taps + s + t * hop;
          }
          rest -= taken, s += taken * hop;
        }
      }
    }
  }
}

// In `memory` for 3·plan.taps() integers.
static TapLists list_sums(const WeightGradPlan& plan, int64_t* memory) {
  TapLists lists{memory, memory + plan.taps(), memory + 2 * plan.taps(), 0};
  if (plan.lanes == DirectLanes::channels) {
    list_runs(plan, lists);
  } else {
    list_taps(plan, lists);
  }
  return lists;
}

}  // namespace cnnext::CNNEXT_ISA
