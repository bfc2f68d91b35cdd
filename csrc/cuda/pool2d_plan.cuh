// What the kernels of all pools share: how threads find their output, and how a tile is staged in shared
// memory.
//
// A pass goes from a source to a target: forward from the input to the windows, backward from the windows to
// the gradient of the input. A tensor is [planes, rows, columns, channels]: NCHW has n·c planes of one
// channel, NHWC n planes of c channels.
#pragma once

#include "device/convert.cuh"
#include "device/cp_async.cuh"
#include "device/shared_memory.cuh"
#include "device/vec_values.cuh"
#include "pool2d_axis.cuh"

namespace cnnext {

inline constexpr int kPoolThreads = 256;
// Blocks of the direct kernels on a multiprocessor, at the least. Said because ptxas would rather spill than
// go from 40 registers to 48.
inline constexpr int kPoolBlocks = 4;
inline constexpr int kPoolBlocksOfDivisions = 3;  // where a division or two takes registers: up to 80
inline constexpr int kSectorBytes = 32;           // what global memory is moved in

struct PoolPlan {
  int64_t planes, channels;
  PoolAxis rows, columns;

  CNNEXT_HOST_DEVICE int64_t pixels() const { return planes * channels * rows.size * columns.size; }
  CNNEXT_HOST_DEVICE int64_t outputs() const { return planes * channels * rows.windows * columns.windows; }
};

// Which side of a plan a pass reads and which it writes.
struct ForwardPass {
  static CNNEXT_HOST_DEVICE int sources(const PoolAxis& axis) { return axis.size; }
  static CNNEXT_HOST_DEVICE int targets(const PoolAxis& axis) { return axis.windows; }
  static CNNEXT_DEVICE PoolRange range(const PoolAxis& axis, int i) { return axis.pixels_under(i); }
};
struct BackwardPass {
  static CNNEXT_HOST_DEVICE int sources(const PoolAxis& axis) { return axis.windows; }
  static CNNEXT_HOST_DEVICE int targets(const PoolAxis& axis) { return axis.size; }
  static CNNEXT_DEVICE PoolRange range(const PoolAxis& axis, int i) { return axis.windows_over(i); }
};

// ---- one thread for each vector of the target ----

struct PoolUnits {
  int64_t count;  // vectors of the target
  device::IndexDivider vectors, columns, rows;

  struct Place {
    int64_t plane, vector;
    int row, column;
  };

  CNNEXT_DEVICE Place place(int64_t unit) const {
    const int64_t pixel = vectors.divide(unit), line = columns.divide(pixel), plane = rows.divide(line);
    return {plane, unit - pixel * vectors.divisor(), static_cast<int>(line - plane * rows.divisor()),
            static_cast<int>(pixel - line * columns.divisor())};
  }
};

template <class Pass>
PoolUnits pool_units(const PoolPlan& plan, int vector) {
  const int64_t vectors = plan.channels / vector;
  const int rows = Pass::targets(plan.rows), columns = Pass::targets(plan.columns);
  return {plan.planes * rows * columns * vectors, device::IndexDivider(vectors),
          device::IndexDivider(columns), device::IndexDivider(rows)};
}

CNNEXT_DEVICE int64_t pool_unit() { return int64_t{blockIdx.x} * kPoolThreads + threadIdx.x; }

// ---- NCHW through shared memory ----
//
// Rows of a plane, and planes, follow each other in memory without a gap. So the source of some whole rows of
// the target, in one plane or across several, is one run of memory: a block copies it by 16-byte vectors,
// each value once however many windows overlap, and no request pays for strides or odd widths.

struct PoolTiles {
  int64_t rows;        // of the target, in all planes
  int rows_per_block;  // of the target
  int source_rows;     // at most this many for a block
  device::IndexDivider target_rows, target_columns;
};

// The run of memory a block stages, and where its first target row is.
struct PoolTile {
  int64_t first_row;                 // of the target, counted through all planes
  int rows;                          // of the target
  int row_in_plane;                  // of the first
  int first_source_row;              // in the same plane
  int64_t source_begin, source_end;  // elements
};

template <class Pass>
CNNEXT_DEVICE PoolTile pool_tile(const PoolPlan& plan, const PoolTiles& tiles) {
  const int sources = Pass::sources(plan.rows), targets = Pass::targets(plan.rows);
  const int64_t width = Pass::sources(plan.columns);
  const int64_t first = int64_t{blockIdx.x} * tiles.rows_per_block;
  const int rows = static_cast<int>(smaller<int64_t>(tiles.rows_per_block, tiles.rows - first));
  const int64_t last = first + rows - 1;
  const int64_t first_plane = tiles.target_rows.divide(first), last_plane = tiles.target_rows.divide(last);
  const int first_in_plane = static_cast<int>(first - first_plane * targets);
  const PoolRange begin = Pass::range(plan.rows, first_in_plane);
  const PoolRange end = Pass::range(plan.rows, static_cast<int>(last - last_plane * targets));
  return {first,
          rows,
          first_in_plane,
          begin.begin,
          (first_plane * sources + begin.begin) * width,
          (last_plane * sources + end.end) * width};
}

template <class T>
CNNEXT_HOST_DEVICE constexpr int64_t aligned_to_sector(int64_t element) {
  constexpr int64_t kPerSector = kSectorBytes / static_cast<int64_t>(sizeof(T));
  return element / kPerSector * kPerSector;
}

// Shared memory that staging `elements` of `bytes` may take: they start inside a sector and end inside a
// vector.
CNNEXT_HOST_DEVICE constexpr int64_t staged_bytes(int64_t elements, int64_t bytes) {
  return round_up<int64_t>(elements * bytes + kSectorBytes + 16, kSectorBytes);
}

// Copies the elements [begin, end) of a tensor of `total`; element `begin` comes to the returned place. What
// lies before it in its sector is copied too. Complete after cp_async_wait<0> and a barrier.
template <class T>
CNNEXT_DEVICE int stage(const T* source, int64_t begin, int64_t end, int64_t total, T* shared) {
  constexpr int kVector = device::kMaxVector<T>;
  const int64_t start = aligned_to_sector<T>(begin);
  const int count = static_cast<int>(smaller(round_up<int64_t>(end, kVector), total) - start);
  const int vectors = count / kVector;
  for (int v = static_cast<int>(threadIdx.x); v < vectors; v += kPoolThreads) {
    device::cp_async<16>(shared + v * kVector, source + start + v * kVector, true);
  }
  for (int i = vectors * kVector + static_cast<int>(threadIdx.x); i < count; i += kPoolThreads) {
    shared[i] = source[start + i];  // the last values of the tensor, fewer than a vector
  }
  return static_cast<int>(begin - start);
}

// run(row, column, base, index) for every value of the block's target rows: row 0 of the plane's source is
// number `base` of the staged rows. Lanes start at a sector of the target, so that their stores fill sectors.
template <class Pass, class Run>
CNNEXT_DEVICE void for_targets(const PoolPlan& plan, const PoolTiles& tiles, const PoolTile& tile,
                               const Run& run) {
  const int targets = Pass::targets(plan.rows), columns = Pass::targets(plan.columns);
  const int sources = Pass::sources(plan.rows);
  const int64_t first_target = tile.first_row * columns;
  const int skew = static_cast<int>(first_target % kSectorBytes), count = tile.rows * columns;
  for (int i = static_cast<int>(threadIdx.x) - skew; i < count; i += kPoolThreads) {
    if (i < 0) continue;
    const int line = tiles.target_columns.divide(i), row = tile.row_in_plane + line;
    const int planes = tiles.target_rows.divide(row);
    run(row - planes * targets, i - line * columns, planes * sources - tile.first_source_row,
        first_target + i);
  }
}

}  // namespace cnnext
