// conv2d on the CPU by implicit GEMM: what conv2d_kernel.cpp offers for each
// instruction set.
//
// Activations are seen as [image, row, column, channel] in the compute type (float or double); where the
// caller's are not, `to_channels_last` makes a copy that is. Outputs are stored in either layout and in the
// caller's dtype.
#pragma once

#include <cstdint>

#include "../common/conv2d_shape.h"
#include "conv2d_prologue.h"
#include "simd/isa.h"

namespace cnnext {

// Where a tap reads: source pixel (i·stride + dh, j·stride + dw), and where its weight lies in [k, c/g, r,
// s].
struct Conv2dTap {
  int64_t dh, dw, weight_offset;
};

// A correlation whose taps are a list. It covers the forward pass (one gather, all taps) and the input
// gradient (one gather per residue of the pixel by the stride: with no tap it writes zeros, and no zero is
// multiplied):
//   out[n, row0 + i·row_step, col0 + j·col_step, k] = bias[k] + Σ_taps Σ_c source[n, i·stride_h + dh, …, c] ·
//   w
struct Conv2dGather {
  int64_t n, groups;
  int64_t in, source_h, source_w;  // channels of one group of the source, and its extents
  int64_t out, out_h, out_w;       // the same of the output
  int64_t rows, cols;              // positions i, j
  int64_t stride_h, stride_w;
  int64_t row0, row_step, col0, col_step;
  const Conv2dTap* taps;
  int64_t tap_count;
  bool out_channels_last;

  int64_t pixels() const { return n * rows * cols; }
  int64_t gemm_k() const { return tap_count * in; }
};

// Strides of the weight as a gather sees it: group, output channel of the gather, input channel.
struct Conv2dWeightSteps {
  int64_t group, out, in;
};

inline constexpr int64_t kCopyPixels = 64;  // of a block of to_channels_last: 16 rows of x and of y share L1

// The weight gradient, cut for parallel work: tasks are chunks × groups × tiles of output channels. Pixels
// are taken in strips: some rows of one image, or all rows of some images.
struct Conv2dWeightPlan {
  Conv2dShape shape;
  int64_t channel_tile;  // output channels of a task
  int64_t tiles;         // of channels in a group
  int64_t strip_rows, strip_images;
  int64_t chunks;  // of the strips; each sums into its own buffer, so threads do not meet

  int64_t strips_per_image() const { return ceil_div(shape.p, strip_rows); }
  int64_t strips() const { return ceil_div(shape.n, strip_images) * strips_per_image(); }
  int64_t tasks() const { return chunks * shape.groups * tiles; }
  // A task's sums: [r][s][c][channel_tile], then [channel_tile] for the bias. Tasks: [chunk][g][k tile].
  int64_t task_sums() const { return (shape.gemm_k() + 1) * channel_tile; }
  // Units of the reduction: groups × tiles × blocks of kReduceChannels input channels.
  int64_t reduce_blocks() const { return ceil_div(shape.group_c(), kReduceChannels); }
  int64_t reduce_units() const { return shape.groups * tiles * reduce_blocks(); }

  static constexpr int64_t kReduceChannels = 16;
};

// How a task of the gather is cut; both are multiples of what the microkernel takes at once.
struct Conv2dTiles {
  int64_t pixels;    // of a task, over images and rows
  int64_t channels;  // output channels of a packed weight tile
};

template <typename T>
struct Conv2dKernels {
  using C = compute_t<T>;
  // Tile sizes for a group of `out` channels.
  Conv2dTiles (*tiles)(int64_t out);

  // Blocks [begin, end) of n · ceil(plane / kCopyPixels) of an activation into [n, plane, c]; `x` is dense in
  // the layout given, plane = h·w.
  void (*to_channels_last)(const T* x, const Conv2dPrologue<C>& prologue, C* y, int64_t c, int64_t plane,
                           bool channels_last, int64_t begin, int64_t end);

  // Tiles [begin, end) of groups × channel tiles, each [tap][in][channels], zero where a tile has no channel.
  void (*pack_weight)(const Conv2dGather& gather, const T* weight, const Conv2dWeightSteps& steps, C* packed,
                      int64_t begin, int64_t end);

  // Pixels [first, first + Conv2dTiles::pixels) of one group, channel tiles [tile_begin, tile_end).
  void (*gather)(const Conv2dGather& gather, const C* source, const C* packed, const T* bias, T* out,
                 C* scratch, int64_t group, int64_t first, int64_t tile_begin, int64_t tile_end);
  // Size of that scratch.
  int64_t (*gather_scratch)(const Conv2dGather& gather);

  // Task of a weight plan; x is [n, h, w, c] and grad [n, p, q, k]. `sums` is the task's own; with `first`
  // they are written, else added to.
  void (*weight_sums)(const Conv2dWeightPlan& plan, const C* x, const C* grad, C* sums, int64_t task,
                      bool first);
  // Units [begin, end) of the reduction: adds up the chunks, in order. `sums` is that of the unit's task in
  // chunk 0, `chunk_step` the distance to the next chunk's.
  void (*weight_reduce)(const Conv2dWeightPlan& plan, const C* sums, int64_t chunk_step, T* grad_weight,
                        T* grad_bias, int64_t unit);
};

CNNEXT_DECLARE_KERNELS(Conv2dKernels, conv2d_kernels)

}  // namespace cnnext
