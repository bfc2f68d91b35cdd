// conv2d on the CPU by implicit GEMM: what conv2d_kernel.cpp and conv2d_weight_kernel.cpp offer for each
// instruction set.
//
// Activations are seen as [image, row, column, channel] in the compute type (float or double); where the
// caller's are not, `to_channels_last` makes a copy that is. Outputs are stored in either layout and in the
// caller's dtype.
#pragma once

#include <cstdint>

#include "../common/conv2d_shape.h"
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

// The weight gradient, cut for parallel work: tasks are chunks × groups × tiles of output channels.
struct Conv2dWeightPlan {
  Conv2dShape shape;
  int64_t chunks;        // of the n·p output rows; each sums into its own buffer, so threads do not meet
  int64_t channel_tile;  // output channels of a task
  int64_t tiles;         // of channels in a group

  int64_t tasks() const { return chunks * shape.groups * tiles; }
  // One chunk's sums: [g][k tile][r][s][c][channel_tile], then [g][k tile][channel_tile] for the bias.
  int64_t weight_sums() const { return shape.groups * tiles * shape.gemm_k() * channel_tile; }
  int64_t sums() const { return weight_sums() + shape.groups * tiles * channel_tile; }
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

  // Rows [begin, end) of n·h rows of an activation into [n, h, w, c]; `x` is dense in the layout given.
  void (*to_channels_last)(const T* x, C* y, int64_t c, int64_t h, int64_t w, bool channels_last,
                           int64_t begin, int64_t end);

  // Tiles [begin, end) of groups × channel tiles, each [tap][in][channels], zero where a tile has no channel.
  // Weight (out channel a, in channel b) of a group g lies at g·group_step + a·out_step + b·in_step.
  void (*pack_weight)(const Conv2dGather& gather, const T* weight, int64_t group_step, int64_t out_step,
                      int64_t in_step, C* packed, int64_t begin, int64_t end);

  // Pixels [first, first + Conv2dTiles::pixels) of one group, channel tiles [tile_begin, tile_end).
  void (*gather)(const Conv2dGather& gather, const C* source, const C* packed, const T* bias, T* out,
                 C* scratch, int64_t group, int64_t first, int64_t tile_begin, int64_t tile_end);
  // Size of that scratch.
  int64_t (*gather_scratch)(const Conv2dGather& gather);

  // Task of a weight plan; x is [n, h, w, c] and grad [n, p, q, k].
  void (*weight_sums)(const Conv2dWeightPlan& plan, const C* x, const C* grad, C* sums, int64_t task);
  // Input channels [begin, end) of groups · c/g: adds up the chunks, in order and in double.
  void (*weight_reduce)(const Conv2dWeightPlan& plan, const C* sums, T* grad_weight, int64_t begin,
                        int64_t end);
  void (*bias_reduce)(const Conv2dWeightPlan& plan, const C* sums, T* grad_bias);
};

CNNEXT_DECLARE_KERNELS(Conv2dKernels, conv2d_kernels)

}  // namespace cnnext
