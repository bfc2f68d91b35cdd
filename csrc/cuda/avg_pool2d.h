// What avg_pool2d and adaptive_avg_pool2d share on CUDA once their windows are described.
#pragma once

#include <optional>

#include "../torch/checks.h"
#include "pool2d_axis.cuh"

namespace cnnext {

// [n, c, rows.size, columns.size] to [n, c, rows.windows, columns.windows], in the layout of the input.
Tensor average_windows(const Tensor& input, const PoolAxis& rows, const PoolAxis& columns,
                       std::optional<int64_t> divisor = std::nullopt);

// The transpose of average_windows, in the layout of `grad`.
Tensor spread_windows(const Tensor& grad, const PoolAxis& rows, const PoolAxis& columns,
                      std::optional<int64_t> divisor = std::nullopt);

}  // namespace cnnext
