// conv2d, forward and input gradient for few channels.
//
//   y[n, k, p, q]      = bias[k] + Σ_{c,r,s} x[n, c, p·stride_h − pad_h + r·dil_h, …] · weight[k, c, r, s]
//   grad_x[n, c, h, w] = Σ_{k,r,s} grad[n, k, p, q] · weight[k, c, r, s]   with  h = p·stride_h − pad_h +
//   r·dil_h
//
// Idea: with few channels a matrix product has short sides, and building its operand costs more than the
// product. Here a band of the source is copied once, zero-padded, into L1 and every tap of every output is a
// constant offset into it; both passes are the gather of conv2d_direct_plan.h. Limits: the weights are packed
// on every call, so the sum over channels and taps should stay in the hundreds.
#include "conv2d_direct_kernel.h"

#include "conv2d_direct_images.h"
#include "conv2d_direct_pack.h"
#include "conv2d_direct_tile.h"

namespace cnnext::CNNEXT_ISA {

template <typename T, typename C = compute_t<T>>
struct GatherJob {
  const GatherPlan& plan;
  C* packed_weight;
  C* packed_bias;
  C* totals;
  C* packed_source;
  C* buffer;
  int64_t* tap_counts;  // [phase]
  int64_t* offsets;     // [phase][source channel][tap]
};

// Width of the block of output channels that begins at `channel` of the `out` of a group.
static int64_t block_width(const GatherPlan& plan, int64_t channel) {
  if (plan.lanes == DirectLanes::pixels) {
    return pixels_block(plan.out - channel, plan.band_rows * ceil_div(plan.w.count(0), plan.vector));
  }
  if (plan.lanes == DirectLanes::images) return pixels_block(plan.out - channel, vectors_per_tile(6));
  if (plan.lanes == DirectLanes::depthwise) return plan.vector;
  return smaller(2 * plan.vector, plan.out_padded - channel);
}

template <typename T>
static const T* weight_at(const GatherPlan& plan, const T* weight, int64_t group, int64_t out, int64_t in,
                          int64_t tap) {
  const int64_t filter =
      plan.h.reversed ? (group * plan.in + in) * plan.out + out : (group * plan.out + out) * plan.in + in;
  return weight + filter * plan.taps() + tap;
}

// run(r, s) for the taps that reach outputs of the phase a·out_step + b, in the order of the packed weights.
template <typename Run>
static void for_each_tap(const GatherPlan& plan, int64_t phase, const Run& run) {
  for (int64_t r = 0; r < plan.h.taps; ++r) {
    for (int64_t s = 0; plan.h.phase(r) == phase / plan.w.out_step && s < plan.w.taps; ++s) {
      if (plan.w.phase(s) == phase % plan.w.out_step) run(r, s);
    }
  }
}

// [step][phase][block][source channel][tap][channel of the block], the order in which the tiles read.
template <typename T, typename C>
static void pack_weights(const GatherJob<T, C>& job, const T* weight) {
  const GatherPlan& plan = job.plan;
  const bool depthwise = plan.lanes == DirectLanes::depthwise;
  C* to = job.packed_weight;
  for (int64_t step = 0; step < plan.steps(); ++step) {
    for (int64_t phase = 0; phase < plan.phases(); ++phase) {
      for (int64_t block = 0, width; block < plan.out; block += width) {
        width = block_width(plan, block);
        for (int64_t in = 0; in < plan.in; ++in) {
          for_each_tap(plan, phase, [&](int64_t r, int64_t s) {
            for (int64_t i = 0; i < width; ++i) {
              const int64_t group = depthwise ? step * width + i : step, out = depthwise ? 0 : block + i;
              const bool there = group < plan.groups && out < plan.out;
              *to++ =
                  there ? to_compute(*weight_at(plan, weight, group, out, in, r * plan.w.taps + s)) : C{0};
            }
          });
        }
      }
    }
  }
}

template <typename T, typename C>
static void pack_bias(const GatherJob<T, C>& job, const T* bias) {
  const GatherPlan& plan = job.plan;
  for (int64_t i = 0; i < plan.bias_size; ++i) job.packed_bias[i] = 0;
  if (!bias) return;
  for (int64_t k = 0; k < plan.groups * plan.out; ++k) {
    const int64_t at =
        plan.lanes == DirectLanes::depthwise ? k : k / plan.out * plan.bias_step + k % plan.out;
    job.packed_bias[at] = to_compute(bias[k]);
  }
}

// Offsets into the packed source, in the order of the packed weights.
template <typename T, typename C>
static void list_offsets(const GatherJob<T, C>& job) {
  const GatherPlan& plan = job.plan;
  const bool depthwise = plan.lanes == DirectLanes::depthwise;
  const int64_t step = depthwise ? 1 : plan.w.source_step, col_pitch = depthwise ? plan.vector : 1;
  int64_t* to = job.offsets;
  for (int64_t phase = 0; phase < plan.phases(); ++phase) {
    const int64_t* const first = to;
    for (int64_t in = 0; in < plan.in; ++in) {
      for_each_tap(plan, phase, [&](int64_t r, int64_t s) {
        const int64_t row = plan.h.offset(r) - plan.h.first_offset(),
                      col = plan.w.offset(s) - plan.w.first_offset();
        *to++ =
            in * plan.plane + row * plan.row_pitch + col % step * plan.phase_pitch + col / step * col_pitch;
      });
    }
    job.tap_counts[phase] = to - first;
  }
}

// `out` is the view of the block: its first channel, the band's first row, the phase's first column.
template <typename T, typename C>
static void compute_block(const GatherJob<T, C>& job, TileJob<C>& tile, const ImageView<T>& out,
                          int64_t width, int64_t channels, int64_t cols) {
  const GatherPlan& plan = job.plan;
  const bool pixels = plan.lanes == DirectLanes::pixels, depthwise = plan.lanes == DirectLanes::depthwise;
  const int64_t vectors = ceil_div(cols, plan.vector);
  tile.cols = pixels ? vectors : cols;
  tile.full = pixels ? plan.vector : channels;
  tile.last = pixels ? cols - (vectors - 1) * plan.vector : channels - (width - plan.vector);
  if (depthwise) tile.last = channels;
  const int64_t row_pitch = pixels ? vectors * plan.vector : cols * width;
  if constexpr (sizeof(T) == sizeof(C)) {
    tile.y = out.data;
    tile.y_row = out.row;
    tile.y_step = pixels ? plan.vector : out.col;
    tile.y_channel = out.channel;
  }
  if (!plan.direct_store) {
    tile.y = job.buffer;
    tile.y_row = row_pitch;
    tile.y_step = pixels ? plan.vector : width;
    tile.y_channel = tile.rows * row_pitch;
  }
  if (pixels) {
    pixels_tiles(tile, width);
  } else if (depthwise) {
    vector_tiles<C, 1, true>(tile);
  } else if (width > plan.vector) {
    channels_tiles<C, true>(tile);
  } else {
    channels_tiles<C, false>(tile);
  }
  if (plan.direct_store) return;
  if (pixels) {
    store_planes(job.buffer, tile.y_channel, row_pitch, channels, tile.rows, cols, out);
  } else {
    store_pixels(job.buffer, width, row_pitch, channels, tile.rows, cols, out);
  }
}

// All phases and blocks of one step (a group, or a vector of depthwise channels) over the packed band.
template <typename T, typename C>
static void compute_band(const GatherJob<T, C>& job, int64_t step, T* image, int64_t first, int64_t rows) {
  const GatherPlan& plan = job.plan;
  const bool depthwise = plan.lanes == DirectLanes::depthwise;
  const int64_t step_channels = depthwise ? plan.vector : plan.out;
  ImageView<T> view =
      image_view(image, plan.groups * plan.out, plan.h.out, plan.w.out, plan.out_channels_last);
  TileJob<C> tile{};
  tile.x = job.packed_source;
  tile.x_row = plan.h.source_step * plan.row_pitch;
  tile.x_step = depthwise ? plan.w.source_step * plan.vector : plan.vector;
  tile.weight = job.packed_weight + plan.weight_step * step;
  tile.offsets = job.offsets;
  tile.totals = job.totals;
  for (int64_t a = 0; a < plan.h.out_step; ++a) {
    tile.rows = smaller(first + rows, plan.h.count(a)) - first;
    for (int64_t b = 0; b < plan.w.out_step; ++b) {
      tile.taps = job.tap_counts[a * plan.w.out_step + b];
      tile.segment = segment_of(tile.taps);
      const int64_t cols = plan.w.count(b);
      for (int64_t block = 0, width; block < plan.out; block += width) {
        width = block_width(plan, block);
        tile.bias = job.packed_bias + plan.bias_step * step + block;
        ImageView<T> out = view;
        out.data += (step * step_channels + block) * view.channel + (first * plan.h.out_step + a) * view.row +
                    b * view.col;
        out.row *= plan.h.out_step;
        out.col *= plan.w.out_step;
        const int64_t channels = smaller(width, (depthwise ? plan.groups - step * width : plan.out - block));
        if (tile.rows > 0 && cols > 0) compute_block(job, tile, out, width, channels, cols);
        tile.weight += tile.taps * width;
      }
      tile.offsets += tile.taps;
    }
  }
}

// A vector of images, with all its groups.
template <typename T, typename C>
static void gather_images(const GatherJob<T, C>& job, const T* source, const Conv2dPrologue<C>& prologue,
                          T* out, int64_t unit) {
  const GatherPlan& plan = job.plan;
  const int64_t source_plane = plan.h.source * plan.w.source, out_plane = plan.h.out * plan.w.out;
  const int64_t source_size = plan.groups * plan.in * source_plane,
                out_size = plan.groups * plan.out * out_plane;
  const int64_t first = unit * plan.vector, images = smaller(plan.vector, plan.n - first);
  source += first * source_size;
  out += first * out_size;
  for (int64_t group = 0; group < plan.groups; ++group, source += plan.in * source_plane) {
    with_prologue(prologue.from(group * plan.in), [&](const auto& map) {
      pack_images(plan, source, source_size, images, job.packed_source, map);
    });
    const C* weight = job.packed_weight + group * plan.weight_step;
    for (int64_t block = 0, width; block < plan.out; block += width, out += width * out_plane) {
      width = block_width(plan, block);
      const C* bias = job.packed_bias + group * plan.bias_step + block;
      images_block<C>({plan, job.packed_source, weight, bias, job.totals, job.buffer}, width);
      unpack_images(job.buffer, width, out_plane, out, out_size, images);
      weight += plan.in * plan.taps() * width;
    }
  }
}

// A band of rows of one image.
template <typename T, typename C>
static void gather_band(const GatherJob<T, C>& job, const T* source, const Conv2dPrologue<C>& prologue,
                        T* out, int64_t unit, bool first_unit) {
  const GatherPlan& plan = job.plan;
  const bool depthwise = plan.lanes == DirectLanes::depthwise;
  const int64_t source_channels = plan.groups * plan.in, step_channels = depthwise ? plan.vector : plan.in;
  const int64_t n = unit / plan.bands, first = unit % plan.bands * plan.band_rows;
  const int64_t rows = smaller(plan.band_rows, plan.h.count(0) - first);
  ImageView<const T> image =
      image_view(source + n * source_channels * plan.h.source * plan.w.source, source_channels, plan.h.source,
                 plan.w.source, plan.source_channels_last);
  for (int64_t step = 0; step < plan.steps(); ++step, image.data += step_channels * image.channel) {
    const bool edges = plan.bands > 1 || (first_unit && step == 0);
    with_prologue(prologue.from(step * step_channels), [&](const auto& map) {
      pack_band(plan, image, step, first, rows, edges, job.packed_source, map);
    });
    compute_band(job, step, out + n * plan.groups * plan.out * plan.h.out * plan.w.out, first, rows);
  }
}

template <typename T, typename C = compute_t<T>>
static GatherJob<T, C> job_in(const GatherPlan& plan, void* scratch) {
  C* packed = static_cast<C*>(scratch);
  C* const packed_bias = packed + plan.weight_size;
  C* const totals = packed_bias + plan.bias_size;
  C* const packed_source = totals + plan.totals_size();
  C* const buffer = packed_source + plan.source_size;
  auto* counts = reinterpret_cast<int64_t*>(buffer + plan.store_size);
  return {plan, packed, packed_bias, totals, packed_source, buffer, counts, counts + plan.phases()};
}

template <typename T>
static void prepare(const GatherPlan& plan, const T* weight, const T* bias, void* scratch) {
  const auto job = job_in<T>(plan, scratch);
  pack_weights(job, weight);
  pack_bias(job, bias);
  if (plan.lanes == DirectLanes::images) {
    fill_zero(job.packed_source, plan.source_size);
  } else {
    list_offsets(job);
  }
}

template <typename T>
static void gather(const GatherPlan& plan, const T* source, const Conv2dPrologue<compute_t<T>>& prologue,
                   T* out, void* scratch, int64_t unit, bool first) {
  const auto job = job_in<T>(plan, scratch);
  if (plan.lanes == DirectLanes::images) return gather_images(job, source, prologue, out, unit);
  gather_band(job, source, prologue, out, unit, first);
}

template <typename T>
const Conv2dDirectKernels<T>& conv2d_direct_kernels() {
  static constexpr Conv2dDirectKernels<T> table{kLanes<compute_t<T>>, prepare<T>, gather<T>};
  return table;
}

CNNEXT_INSTANTIATE_KERNELS(Conv2dDirectKernels, conv2d_direct_kernels)

}  // namespace cnnext::CNNEXT_ISA
