// conv2d, weight and bias gradient for few channels; the formula and the split of the work are in
// conv2d_direct_weight_plan.h.
//
// Idea: as in the forward pass every tap is a constant offset into a padded band of x, so a tile of taps
// sweeps the band once and keeps its sums in registers. With lanes over pixels the lanes are added up once
// per chunk.
#include "conv2d_direct_weight_kernel.h"

#include "conv2d_direct_pack.h"
#include "conv2d_direct_taps.h"

namespace cnnext::CNNEXT_ISA {

template <typename T, typename C = compute_t<T>>
struct WeightGradJob {
  const WeightGradPlan& plan;
  const T* grad;
  const T* x;
  C* packed_x;
  C* packed_grad;
  C* sums;           // [step][block][tap][lane], tap in the order of `places`
  C* bias_sums;      // [step][block][lane]
  int64_t* offsets;  // of every tap, or of every run of taps in channels lanes
  int64_t* lengths;  // of the runs
  int64_t* places;   // (c·R + r)·S + s of every sum of an output channel
  int64_t runs;
};

static int64_t offset_of(const GatherPlan& x, int64_t c, int64_t r, int64_t s) {
  const int64_t row = r * x.h.dilation, col = s * x.w.dilation, step = x.w.source_step;
  if (x.lanes == DirectLanes::depthwise) return row * x.row_pitch + col * x.vector;
  return c * x.plane + row * x.row_pitch + col % step * x.phase_pitch + col / step;
}

template <typename T>
static void list_taps(const WeightGradJob<T>& job) {
  const GatherPlan& x = job.plan.x;
  for (int64_t i = 0; i < job.plan.taps(); ++i) {
    job.places[i] = i;
    job.offsets[i] = offset_of(x, i / x.taps(), i % x.taps() / x.w.taps, i % x.w.taps);
  }
}

// Runs of neighbouring taps, the longest first, so that runs of one length lie together.
template <typename T>
static void list_runs(WeightGradJob<T>& job) {
  const GatherPlan& x = job.plan.x;
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
            job.offsets[job.runs] = offset_of(x, i / x.h.taps, i % x.h.taps, s);
            job.lengths[job.runs++] = length;
            for (int64_t t = 0; t < length; ++t) job.places[sum++] = i * x.w.taps + s + t * hop;
          }
          rest -= taken, s += taken * hop;
        }
      }
    }
  }
}

// The band's gradient of up to kLanes output channels as one vector per pixel, rows without a gap.
template <typename T, typename C>
static void pack_pixels(const ImageView<const T>& image, int64_t channels, int64_t pixels, C* to) {
  if (image.channel == 1) {
    for (int64_t i = 0; i < pixels; ++i)
      store(to + i * kLanes<C>, load_first(image.data + i * image.col, channels));
    return;
  }
  for (int64_t i = 0; i < pixels; i += kLanes<C>) {
    Vec<C> square[kLanes<C>] = {};
    for (int c = 0; c < kLanes<C> && c < channels; ++c) {
      square[c] = load_first(image.data + c * image.channel + i, pixels - i);
    }
    transpose<C>(square);
    // The last square may reach kLanes − 1 pixels past the band: the buffer has room for them.
#pragma GCC unroll 16
    for (int j = 0; j < kLanes<C>; ++j) store(to + (i + j) * kLanes<C>, square[j]);
  }
}

template <typename T, typename C>
static void add_pixels_band(const WeightGradJob<T, C>& job, TapsJob<C> taps, int64_t step,
                            ImageView<const T> image) {
  const WeightGradPlan& plan = job.plan;
  GatherPlan rows = plan.grad;
  taps.grad = job.packed_grad;
  taps.grad_channel = rows.plane;
  for (int64_t k = 0; k < plan.k; k += rows.in) {
    rows.in = taps_block(plan.k - k);
    for (int64_t row = 0; row < taps.rows; ++row)
      pack_row(rows, image, row, job.packed_grad + row * rows.row_pitch);
    image.data += rows.in * image.channel;
    const int64_t block = step * plan.blocks + k;
    C* sums = job.sums + block * plan.taps() * plan.x.vector;
    for (int64_t i = 0; i < rows.in; ++i) {
      add_grad(taps, job.packed_grad + i * rows.plane, job.bias_sums + (block + i) * plan.x.vector);
    }
    if (rows.in == 1) taps_tiles<C, 1, false>(taps, job.offsets, plan.taps(), sums);
    if (rows.in == 2) taps_tiles<C, 2, false>(taps, job.offsets, plan.taps(), sums);
    if (rows.in == 3) taps_tiles<C, 3, false>(taps, job.offsets, plan.taps(), sums);
    if (rows.in == 4) taps_tiles<C, 4, false>(taps, job.offsets, plan.taps(), sums);
  }
}

template <typename T, typename C>
static void add_vectors_band(const WeightGradJob<T, C>& job, TapsJob<C> taps, int64_t step,
                             ImageView<const T> image) {
  const WeightGradPlan& plan = job.plan;
  const bool depthwise = plan.lanes == DirectLanes::depthwise;
  const int64_t vector = plan.x.vector, channels = depthwise ? plan.groups() - step * vector : plan.k;
  for (int64_t block = 0; block < plan.blocks; ++block, image.data += vector * image.channel) {
    if constexpr (sizeof(T) == sizeof(C)) taps.grad = image.data;
    taps.grad_step = plan.grad_in_place ? image.col : vector;
    if (!plan.grad_in_place) {
      pack_pixels(image, smaller(vector, channels - block * vector), taps.rows * taps.cols, job.packed_grad);
      taps.grad = job.packed_grad;
    }
    taps.grad_row = taps.cols * taps.grad_step;
    const int64_t at = step * plan.blocks + block;
    C* sums = job.sums + at * plan.taps() * vector;
    add_grad(taps, taps.grad, job.bias_sums + at * vector);
    if (depthwise) {
      taps_tiles<C, 1, true>(taps, job.offsets, plan.taps(), sums);
      continue;
    }
    for (int64_t run = 0, count; run < job.runs; run += count) {
      const int64_t length = job.lengths[run];
      for (count = 1; run + count < job.runs && job.lengths[run + count] == length;) ++count;
      runs_tiles<C>(length, taps, job.offsets + run, count, sums);
      sums += count * length * vector;
    }
  }
}

template <typename T, typename C>
static void add_unit(const WeightGradJob<T, C>& job, int64_t unit) {
  const WeightGradPlan& plan = job.plan;
  const GatherPlan &x = plan.x, &grad = plan.grad;
  const bool depthwise = plan.lanes == DirectLanes::depthwise;
  const int64_t n = unit / x.bands, first = unit % x.bands * x.band_rows, k = plan.groups() * plan.k;
  const int64_t c = x.groups * x.in, step_in = depthwise ? x.vector : x.in,
                step_out = depthwise ? x.vector : plan.k;
  auto image =
      image_view(job.x + n * c * x.h.source * x.w.source, c, x.h.source, x.w.source, x.source_channels_last);
  auto grads =
      image_view(job.grad + n * k * x.h.out * x.w.out, k, x.h.out, x.w.out, grad.source_channels_last);
  grads.data += first * grads.row;
  TapsJob<C> taps{};
  taps.x = job.packed_x;
  taps.x_row = x.h.source_step * x.row_pitch;
  taps.rows = smaller(x.band_rows, x.h.out - first);
  const bool pixels = plan.lanes == DirectLanes::pixels;
  taps.cols = pixels ? ceil_div(x.w.out, x.vector) : x.w.out;
  taps.x_step = pixels ? x.vector : depthwise ? x.w.source_step * x.vector : 1;
  taps.grad_row = grad.row_pitch;
  taps.grad_step = x.vector;
  taps.last = x.w.out - (taps.cols - 1) * x.vector;
  for (int64_t step = 0; step < x.steps(); ++step) {
    for (int64_t row = 0; row < x.source_rows(taps.rows); ++row) {
      const int64_t source_row = first * x.h.source_step + x.h.first_offset() + row;
      C* to = job.packed_x + row * x.row_pitch;
      if (depthwise) {
        pack_row_of_vectors(x, image, x.groups - step * x.vector, source_row, to);
      } else {
        pack_row(x, image, source_row, to);
      }
    }
    if (pixels) {
      add_pixels_band(job, taps, step, grads);
    } else {
      add_vectors_band(job, taps, step, grads);
    }
    image.data += step_in * image.channel;
    grads.data += step_out * grads.channel;
  }
}

// The chunk's sums into partial: weights [k][c][r][s], then biases [k].
template <typename T, typename C>
static void write_partial(const WeightGradJob<T, C>& job, C* partial) {
  const WeightGradPlan& plan = job.plan;
  const int64_t vector = plan.x.vector, taps = plan.taps(), weights = plan.weights();
  const bool pixels = plan.lanes == DirectLanes::pixels;
  const int64_t per_step = plan.lanes == DirectLanes::depthwise ? vector : plan.k;
  for (int64_t k = 0; k < plan.groups() * plan.k; ++k) {
    const int64_t channel = k % per_step, lane = pixels ? 0 : channel % vector;
    const int64_t block = k / per_step * plan.blocks + (pixels ? channel : channel / vector);
    const auto value = [&](const C* sum) { return pixels ? horizontal_sum<C>(load(sum)) : sum[lane]; };
    for (int64_t i = 0; i < taps; ++i) {
      partial[k * taps + job.places[i]] = value(job.sums + (block * taps + i) * vector);
    }
    partial[weights + k] = value(job.bias_sums + block * vector);
  }
}

template <typename T>
static void backward_weight(const WeightGradPlan& plan, const T* grad, const T* x, compute_t<T>* partials,
                            void* scratch, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  C* const packed_x = static_cast<C*>(scratch);
  C* const packed_grad = packed_x + plan.x.source_size;
  C* const sums = packed_grad + plan.grad_size;
  auto* offsets = reinterpret_cast<int64_t*>(sums + plan.sums);
  C* const bias_sums = sums + plan.sums / (plan.taps() + 1) * plan.taps();
  WeightGradJob<T> job{plan,
                       grad,
                       x,
                       packed_x,
                       packed_grad,
                       sums,
                       bias_sums,
                       offsets,
                       offsets + plan.taps(),
                       offsets + 2 * plan.taps(),
                       0};
  if (plan.lanes == DirectLanes::channels) {
    list_runs(job);
  } else {
    list_taps(job);
  }
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    fill_zero(sums, plan.sums);
    for (int64_t unit = plan.first_unit(chunk); unit < plan.first_unit(chunk + 1); ++unit)
      add_unit(job, unit);
    write_partial(job, partials + chunk * plan.partial_size());
  }
}

template <typename T>
static void add_partials(const WeightGradPlan& plan, const compute_t<T>* partials, T* grad_weight,
                         T* grad_bias) {
  for (int64_t i = 0; i < plan.partial_size(); ++i) {
    double total = 0;
    for (int64_t chunk = 0; chunk < plan.chunks; ++chunk) total += partials[chunk * plan.partial_size() + i];
    const T value = from_compute<T>(static_cast<compute_t<T>>(total));
    if (i < plan.weights()) {
      grad_weight[i] = value;
    } else {
      grad_bias[i - plan.weights()] = value;
    }
  }
}

template <typename T>
const Conv2dDirectWeightKernels<T>& conv2d_direct_weight_kernels() {
  static constexpr Conv2dDirectWeightKernels<T> table{kLanes<compute_t<T>>, backward_weight<T>,
                                                      add_partials<T>};
  return table;
}

CNNEXT_INSTANTIATE_KERNELS(Conv2dDirectWeightKernels, conv2d_direct_weight_kernels)

}  // namespace cnnext::CNNEXT_ISA
