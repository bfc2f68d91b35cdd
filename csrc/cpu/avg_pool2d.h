// What avg_pool2d and adaptive_avg_pool2d share on the CPU once their windows are in tables.
#pragma once

#include "../torch/checks.h"
#include "pool2d_tables.h"

namespace cnnext {

// [n, c, rows.size, columns.size] to [n, c, rows.windows, columns.windows], in the layout of the input.
Tensor average_windows(const Tensor& input, const PoolTables& rows, const PoolTables& columns);

// The transpose of average_windows, in the layout of `grad`.
Tensor spread_windows(const Tensor& grad, const PoolTables& rows, const PoolTables& columns);

}  // namespace cnnext
