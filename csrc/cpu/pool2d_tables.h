// Fills the tables of pool2d_axis.h, once per call of an op, on the host side.
#pragma once

#include <numeric>
#include <vector>

#include "../common/pool2d_shape.h"
#include "pool2d_axis.h"

namespace cnnext {

class PoolTables {
 public:
  // The windows of a max or average pool. An average divides by the taps of a window inside the padded input
  // (count_include_pad) or inside the input.
  static PoolTables uniform(int64_t size, int64_t windows, int64_t taps, int64_t stride, int64_t pad,
                            int64_t dilation, bool count_include_pad = false) {
    PoolTables tables({size, windows, taps, stride, pad, dilation, 0, 0, nullptr, nullptr});
    for (int64_t i = 0; i < windows; ++i) {
      const int64_t origin = i * stride - pad;
      const int64_t first = origin >= 0 ? 0 : smaller(taps, ceil_div(-origin, dilation));
      const int64_t end = smaller(taps, larger(first, floor_div(size - 1 - origin, dilation) + 1));
      const int64_t divisor = count_include_pad ? smaller(taps, size + pad - origin) : end - first;
      tables.windows_.push_back({origin, first, end, divisor});
    }
    const int64_t common = std::gcd(stride, dilation);
    tables.find_covers(dilation / common, stride / common);
    return tables;
  }

  static PoolTables adaptive(int64_t size, int64_t windows) {
    if (windows > 0 && size % windows == 0) {
      const int64_t taps = size / windows;
      return uniform(size, windows, taps, larger<int64_t>(taps, 1), 0, 1);
    }
    PoolTables tables({size, windows, 0, 0, 0, 1, 0, 0, nullptr, nullptr});
    for (int64_t i = 0; i < windows; ++i) {
      const int64_t start = adaptive_start(i, size, windows), end = adaptive_end(i, size, windows);
      tables.windows_.push_back({start, 0, end - start, end - start});
    }
    tables.find_covers(1, 0);
    return tables;
  }

  void override_divisor(int64_t divisor) {
    for (PoolWindow& window : windows_) window.divisor = divisor;
  }

  // Valid as long as this object is.
  PoolAxis axis() const {
    PoolAxis axis = axis_;
    axis.window = windows_.data();
    axis.cover = covers_.data();
    return axis;
  }

 private:
  explicit PoolTables(const PoolAxis& axis) : axis_(axis) {
    windows_.reserve(static_cast<size_t>(axis.windows));
  }

  // The windows over a pixel are an arithmetic progression: i·stride + t·dilation = const.
  void find_covers(int64_t window_step, int64_t tap_step) {
    axis_.window_step = window_step;
    axis_.tap_step = tap_step;
    covers_.assign(static_cast<size_t>(axis_.size), PoolCover{0, 0, 0});
    for (int64_t i = 0; i < axis_.windows; ++i) {
      const PoolWindow& window = windows_[static_cast<size_t>(i)];
      for (int64_t t = window.first_tap; t < window.end_tap; ++t) {
        PoolCover& cover = covers_[static_cast<size_t>(window.origin + t * axis_.dilation)];
        if (cover.count++ == 0) cover.window = i, cover.tap = t;
      }
    }
  }

  PoolAxis axis_;
  std::vector<PoolWindow> windows_;
  std::vector<PoolCover> covers_;
};

// Planes of one channel for NCHW, pixels of all channels for NHWC.
inline PoolPlan pool_plan(int64_t n, int64_t c, bool channels_last, const PoolTables& rows,
                          const PoolTables& columns) {
  return {channels_last ? n : n * c, channels_last ? c : 1, rows.axis(), columns.axis()};
}

// Whether the row kernels may be used on an NCHW plan: their scratch grows with the padding and the gaps
// between windows, which torch's rules let be a multiple of the image. The channel kernels run such a plan
// one value at a time.
inline bool rows_pay(const PoolPlan& plan) {
  const PoolAxis& axis = plan.columns;
  const int64_t span = (axis.windows - 1) * axis.stride + (axis.taps - 1) * axis.dilation + 1;
  return axis.stride >= 1 && axis.stride <= 64 && larger(span, axis.size + axis.pad) <= 4 * axis.size + 256;
}

// Whether the kernels of pool2d_pairs.h may be used on an NCHW plan.
inline bool is_pairs(const PoolPlan& plan) {
  const auto axis_is = [](const PoolAxis& axis) {
    return axis.taps == 2 && axis.stride == 2 && axis.pad == 0 && axis.dilation == 1 &&
           2 * axis.windows <= axis.size;
  };
  return axis_is(plan.rows) && axis_is(plan.columns);
}

// Whether the kernels of max_pool2d_3x3.h may be used on an NCHW plan.
inline bool is_three_by_three(const PoolPlan& plan) {
  const auto axis_is = [](const PoolAxis& axis) {
    return axis.taps == 3 && axis.stride == 2 && axis.pad == 1 && axis.dilation == 1;
  };
  return axis_is(plan.rows) && axis_is(plan.columns) && 2 * plan.columns.windows == plan.columns.size;
}

}  // namespace cnnext
