// conv2d, weight and bias gradient for few channels; the formula and the split of the work are in
// conv2d_direct_weight_plan.h.
//
// Idea: as in the forward pass every tap is a constant offset into a padded band of x, so a tile of taps
// sweeps the band once and keeps its sums in registers. With lanes over pixels the lanes are added up once
// per chunk.
#include "conv2d_direct_weight_kernel.h"

#include "conv2d_direct_pack.h"
#include "conv2d_direct_runs.h"
#include "conv2d_direct_taps.h"

namespace cnnext::CNNEXT_ISA {

template <typename T, typename C = compute_t<T>>
struct WeightGradJob {
  const WeightGradPlan& plan;
  const T* grad;
  const T* x;
  Conv2dPrologue<C> prologue;  // of x
  C* packed_x;
  C* packed_grad;
  C* sums;       // [step][block][tap][lane], tap in the order of `places`
  C* bias_sums;  // [step][block][lane]
  TapLists lists;
};

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
  taps.grad_channel = plan.grad_in_place ? image.channel : rows.plane;
  taps.grad_row = plan.grad_in_place ? image.row : rows.row_pitch;
  for (int64_t k = 0; k < plan.k; k += rows.in) {
    rows.in = taps_block(plan.k - k);
    if constexpr (sizeof(T) == sizeof(C)) taps.grad = image.data;
    if (!plan.grad_in_place) {
      for (int64_t row = 0; row < taps.rows; ++row)
        pack_row(rows, image, row, true, job.packed_grad + row * rows.row_pitch, SourceAsItIs<C>{});
      taps.grad = job.packed_grad;
    }
    image.data += rows.in * image.channel;
    const int64_t block = step * plan.blocks + k;
    C* sums = job.sums + block * plan.taps() * plan.x.vector;
    if (rows.in == 1) taps_tiles<C, 1, false>(taps, job.lists.offsets, plan.taps(), sums);
    if (rows.in == 2) taps_tiles<C, 2, false>(taps, job.lists.offsets, plan.taps(), sums);
    if (rows.in == 3) taps_tiles<C, 3, false>(taps, job.lists.offsets, plan.taps(), sums);
    if (rows.in == 4) taps_tiles<C, 4, false>(taps, job.lists.offsets, plan.taps(), sums);
    for (int64_t i = 0; i < rows.in; ++i) {
      add_grad(taps, taps.grad + i * taps.grad_channel, job.bias_sums + (block + i) * plan.x.vector);
    }
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
      taps_tiles<C, 1, true>(taps, job.lists.offsets, plan.taps(), sums);
      continue;
    }
    for (int64_t run = 0, count; run < job.lists.runs; run += count) {
      const int64_t length = job.lists.lengths[run];
      for (count = 1; run + count < job.lists.runs && job.lists.lengths[run + count] == length;) ++count;
      runs_tiles<C>(length, taps, job.lists.offsets + run, count, sums);
      sums += count * length * vector;
    }
  }
}

template <typename T, typename C>
static void add_unit(const WeightGradJob<T, C>& job, int64_t unit, bool first_unit) {
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
  taps.grad_step = x.vector;
  taps.last = pixels ? x.w.out - (taps.cols - 1) * x.vector : x.vector;
  for (int64_t step = 0; step < x.steps(); ++step) {
    const bool edges = x.bands > 1 || (first_unit && step == 0);
    with_prologue(job.prologue.from(step * step_in), [&](const auto& source) {
      pack_band(x, image, step, first, taps.rows, edges, job.packed_x, source);
    });
    if (pixels) {
      add_pixels_band(job, taps, step, grads);
    } else {
      add_vectors_band(job, taps, step, grads);
    }
    image.data += step_in * image.channel;
    grads.data += step_out * grads.channel;
  }
}

// to[i] = Σ of the lanes of vector i, for i < count; writes whole vectors.
template <typename C>
static void add_lanes(const C* from, int64_t count, C* to) {
  for (int64_t i = 0; i < count; i += kLanes<C>) {
    Vec<C> square[kLanes<C>] = {};
    for (int j = 0; j < kLanes<C> && i + j < count; ++j) square[j] = load(from + (i + j) * kLanes<C>);
    transpose<C>(square);
#pragma GCC unroll 4
    for (int half = kLanes<C> / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
      for (int j = 0; j < half; ++j) square[j] += square[j + half];
    }
    store(to + i, square[0]);
  }
}

template <typename T>
static void backward_weight(const WeightGradPlan& plan, const T* grad, const T* x,
                            const Conv2dPrologue<compute_t<T>>& prologue, compute_t<T>* partials,
                            void* scratch, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  C* const packed_x = static_cast<C*>(scratch);
  C* const packed_grad = packed_x + plan.x.source_size;
  C* const sums = packed_grad + plan.grad_size;
  const TapLists lists = list_sums(plan, reinterpret_cast<int64_t*>(sums + plan.sums));
  const bool pixels = plan.lanes == DirectLanes::pixels;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    C* const partial = partials + chunk * plan.partial_size();
    C* const own = pixels ? sums : partial;
    fill_zero(own, plan.sums);
    const WeightGradJob<T> job{plan, grad, x, prologue, packed_x, packed_grad, own, own + plan.bias_sum(0),
                               lists};
    const int64_t last = plan.first_unit(chunk + 1);
    for (int64_t unit = plan.first_unit(chunk); unit < last; ++unit)
      add_unit(job, unit, unit == plan.first_unit(begin));
    if (pixels) add_lanes(sums, plan.sums / plan.x.vector, partial);
  }
}

template <typename T>
static void add_partials(const WeightGradPlan& plan, compute_t<T>* partials, T* grad_weight, T* grad_bias,
                         void* scratch) {
  using C = compute_t<T>;
  const int64_t size = plan.partial_size(), vector = plan.x.vector, width = plan.partial_width();
  for (int64_t i = 0; i < size; i += vector) {
    Vec<C> total = load(partials + i);
    for (int64_t chunk = 1; chunk < plan.chunks; ++chunk) total += load(partials + chunk * size + i);
    store(partials + i, total);
  }
  const int64_t* const places = list_sums(plan, static_cast<int64_t*>(scratch)).places;
  const int64_t taps = plan.taps(), per_step = plan.lanes == DirectLanes::depthwise ? vector : plan.k;
  for (int64_t k = 0; k < plan.groups() * plan.k; ++k) {
    const int64_t block = k / per_step * plan.blocks + k % per_step / width, lane = k % per_step % width;
    const C* const sums = partials + block * taps * width + lane;
    for (int64_t i = 0; i < taps; ++i) grad_weight[k * taps + places[i]] = from_compute<T>(sums[i * width]);
    grad_bias[k] = from_compute<T>(partials[plan.bias_sum(block) / vector * width + lane]);
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
