// The implicit GEMM on tensors: scratch, threads, and the gathers of the forward pass and the input gradient.
// Tensors are dense in the layout that `channels_last` says; weights are [k, c/g, r, s] or [k, r, s, c/g].
#pragma once

#include <algorithm>
#include <vector>

#include "../torch/checks.h"
#include "../torch/dispatch.h"
#include "conv2d_epilogue.h"
#include "conv2d_kernel.h"
#include "parallel.h"
#include "workspace.h"

namespace cnnext {

// Fewer tasks than this and the output channels are shared out too, so that every core has work.
inline constexpr int64_t kWantedTasks = 16;

template <typename T>
inline constexpr ScalarType kComputeDtype =
    sizeof(compute_t<T>) == 8 ? ScalarType::Double : ScalarType::Float;

// Buffers of the calling thread that its parallel sections read: kept between calls, like the scratch of
// workspace(), which the calling thread needs inside those sections.
enum class SharedBuffer { source, second_source, weight };

template <SharedBuffer kWhich, typename C>
C* shared_buffer(int64_t count) {
  static thread_local Workspace buffer;
  return static_cast<C*>(buffer.reserve(static_cast<size_t>(count) * sizeof(C)));
}

// Whether an activation already lies as the kernels read it: [n, h, w, c] in the compute type.
template <typename T>
bool lies_ready(const Tensor& x, const Conv2dPrologue<compute_t<T>>& prologue, bool channels_last) {
  return !prologue.center && sizeof(T) >= 4 &&
         (channels_last || x.size(1) == 1 || x.size(2) * x.size(3) == 1);
}

// Images that are copied together: the copy should still be in the cache when it is read, and its buffer stay
// small.
inline int64_t images_per_batch(int64_t n, int64_t image_bytes) {
  constexpr int64_t kBatchBytes = 8 << 20;
  return smaller(n, larger<int64_t>(1, kBatchBytes / larger<int64_t>(1, image_bytes)));
}

// Images [first, first + count) of an activation as [n, h, w, c] in the compute type: in place, or a copy. A
// prologue makes it a copy, of a size that stays in the cache.
template <SharedBuffer kWhich, typename T>
const compute_t<T>* as_channels_last(const Tensor& x, const Conv2dPrologue<compute_t<T>>& prologue,
                                     bool channels_last, int64_t first, int64_t count) {
  const int64_t c = x.size(1), plane = x.size(2) * x.size(3);
  const T* from = data<T>(x) + first * c * plane;
  if constexpr (sizeof(T) >= 4) {
    if (lies_ready<T>(x, prologue, channels_last)) return from;
  }
  auto* to = shared_buffer<kWhich, compute_t<T>>(count * c * plane);
  parallel_for(count * ceil_div(plane, kCopyPixels), kCopyPixels * c, [&](int64_t begin, int64_t end) {
    conv2d_kernels<T>().to_channels_last(from, prologue, to, c, plane, channels_last, begin, end);
  });
  return to;
}

// Strides of a weight that is dense as [k, c/g, r, s] or as [k, r, s, c/g].
struct WeightLayout {
  int64_t group, k, c, tap;
};

inline WeightLayout weight_layout(const Conv2dShape& shape, const Tensor& weight) {
  const bool channels_last = is_channels_last(weight);
  const int64_t per_k = shape.gemm_k();
  if (channels_last) return {shape.group_k() * per_k, per_k, 1, shape.group_c()};
  return {shape.group_k() * per_k, per_k, shape.r * shape.s, 1};
}

// Where the parts of a gather stand in the whole: the number of the first, and its first pixel.
struct Conv2dParts {
  Conv2dEpilogue* epilogue;
  int64_t part, pixel;

  // Tiles [tile_begin, tile_end) of `width` channels of a group, of block `block`.
  void finish(const Conv2dGather& gather, int64_t block_pixels, int64_t width, int64_t group, int64_t block,
              int64_t tile_begin, int64_t tile_end) const {
    if (!epilogue) return;
    const int64_t first = block * block_pixels, last = smaller(first + block_pixels, gather.pixels());
    const int64_t channel = group * gather.out;
    epilogue->finish(part + block, {pixel + first, pixel + last, channel + tile_begin * width,
                                    channel + smaller(tile_end * width, gather.out)});
  }
};

// One gather over the images that `gather.n` counts; `packed` holds its weights.
template <typename T>
void run_gather(const Conv2dGather& gather, const compute_t<T>* source, const compute_t<T>* packed,
                const T* bias, T* out, const Conv2dParts& parts) {
  const auto& kernels = conv2d_kernels<T>();
  const Conv2dTiles tiles = kernels.tiles(gather.out);
  const int64_t channel_tiles = ceil_div(gather.out, tiles.channels);
  const int64_t blocks = ceil_div(gather.pixels(), tiles.pixels);
  const int64_t shares =
      smaller(channel_tiles, ceil_div(kWantedTasks, larger<int64_t>(1, blocks * gather.groups)));
  const int64_t work = tiles.pixels * gather.gemm_k() * gather.out / shares;
  parallel_for(blocks * gather.groups * shares, work, [&](int64_t begin, int64_t end) {
    auto* scratch = workspace<compute_t<T>>(kernels.gather_scratch(gather));
    for (int64_t task = begin; task < end;) {
      const int64_t share = task % shares, group = task / shares % gather.groups;
      const int64_t block = task / shares / gather.groups;
      const int64_t last =
          smaller(shares, share + end - task);  // neighbouring shares use one panel of patches
      const int64_t tile_begin = channel_tiles * share / shares, tile_end = channel_tiles * last / shares;
      kernels.gather(gather, source, packed, bias, out, scratch, group, block * tiles.pixels, tile_begin,
                     tile_end);
      parts.finish(gather, tiles.pixels, tiles.channels, group, block, tile_begin, tile_end);
      task += last - share;
    }
  });
}

// The gathers of a pass, all over the same source and into the same output; with an epilogue there is one.
template <typename T>
void run_gathers(const std::vector<Conv2dGather>& gathers, const Tensor& source, const Tensor& weight,
                 const Conv2dWeightSteps& steps, const T* bias, const Tensor& out, bool channels_last,
                 const Conv2dFusion<compute_t<T>>& fusion) {
  using C = compute_t<T>;
  const auto& kernels = conv2d_kernels<T>();
  const int64_t width = kernels.tiles(gathers[0].out).channels;
  const int64_t weight_tiles = gathers[0].groups * ceil_div(gathers[0].out, width);
  int64_t depth = 0;
  for (const Conv2dGather& gather : gathers) depth += gather.gemm_k();
  C* const packed = shared_buffer<SharedBuffer::weight, C>(weight_tiles * width * depth);
  C* at = packed;
  for (const Conv2dGather& gather : gathers) {
    parallel_for(weight_tiles, width * gather.gemm_k(), [&](int64_t begin, int64_t end) {
      kernels.pack_weight(gather, data<T>(weight), steps, at, begin, end);
    });
    at += weight_tiles * width * gather.gemm_k();
  }
  const int64_t n = source.size(0), image = source.size(1) * source.size(2) * source.size(3);
  const int64_t out_image = out.size(1) * out.size(2) * out.size(3);
  const int64_t batch = lies_ready<T>(source, fusion.prologue, channels_last)
                            ? n
                            : images_per_batch(n, image * static_cast<int64_t>(sizeof(C)));
  const auto parts_of = [&](int64_t images) {
    return ceil_div(images * gathers[0].rows * gathers[0].cols, kernels.tiles(gathers[0].out).pixels);
  };
  if (fusion.epilogue)
    fusion.epilogue->expect(n == 0 ? 0 : n / batch * parts_of(batch) + parts_of(n % batch));
  for (int64_t first = 0; first < n; first += batch) {
    const int64_t count = smaller(batch, n - first);
    const C* from =
        as_channels_last<SharedBuffer::source, T>(source, fusion.prologue, channels_last, first, count);
    const Conv2dParts parts{fusion.epilogue, first / batch * parts_of(batch),
                            first * gathers[0].rows * gathers[0].cols};
    at = packed;
    for (Conv2dGather gather : gathers) {
      gather.n = count;
      run_gather<T>(gather, from, at, bias, mutable_data<T>(out) + first * out_image, parts);
      at += weight_tiles * width * gather.gemm_k();
    }
  }
}

template <typename T>
void implicit_gemm_forward(const Conv2dShape& shape, const Tensor& x, const Tensor& weight,
                           const std::optional<Tensor>& bias, const Tensor& output, bool channels_last,
                           const Conv2dFusion<compute_t<T>>& fusion) {
  const WeightLayout layout = weight_layout(shape, weight);
  std::vector<Conv2dTap> taps;
  for (int64_t r = 0; r < shape.r; ++r) {
    for (int64_t s = 0; s < shape.s; ++s) {
      taps.push_back(
          {r * shape.dil_h - shape.pad_h, s * shape.dil_w - shape.pad_w, (r * shape.s + s) * layout.tap});
    }
  }
  const Conv2dGather gather{shape.n,
                            shape.groups,
                            shape.group_c(),
                            shape.h,
                            shape.w,
                            shape.group_k(),
                            shape.p,
                            shape.q,
                            shape.p,
                            shape.q,
                            shape.stride_h,
                            shape.stride_w,
                            0,
                            1,
                            0,
                            1,
                            taps.data(),
                            shape.r * shape.s,
                            channels_last};
  run_gathers<T>({gather}, x, weight, {layout.group, layout.k, layout.c}, data<T>(bias), output,
                 channels_last, fusion);
}

template <typename T>
void fill_zeros(const Tensor& to) {
  T* const values = mutable_data<T>(to);
  parallel_for(to.numel(), 1,
               [&](int64_t begin, int64_t end) { std::fill(values + begin, values + end, T{}); });
}

// Input pixels of residue (a, b) by the stride are reached by the taps with a + pad ≡ r·dil: they form a
// correlation of stride 1 over the output gradient. Where the stride leaves residues without a tap, as in a
// 1x1 kernel, the whole of the result is zeroed first, which costs less than storing zeros a stride apart.
template <typename T>
void implicit_gemm_backward_input(const Conv2dShape& shape, const Tensor& grad, const Tensor& weight,
                                  const Tensor& grad_input, bool channels_last) {
  const WeightLayout layout = weight_layout(shape, weight);
  std::vector<Conv2dGather> gathers;
  std::vector<std::vector<Conv2dTap>> taps_of;
  bool untouched = false;
  taps_of.reserve(static_cast<size_t>(shape.stride_h * shape.stride_w));
  for (int64_t a = 0; a < smaller(shape.stride_h, shape.h); ++a) {
    for (int64_t b = 0; b < smaller(shape.stride_w, shape.w); ++b) {
      std::vector<Conv2dTap>& taps = taps_of.emplace_back();
      for (int64_t r = 0; r < shape.r; ++r) {
        for (int64_t s = 0; s < shape.s; ++s) {
          const int64_t dh = a + shape.pad_h - r * shape.dil_h, dw = b + shape.pad_w - s * shape.dil_w;
          if (dh % shape.stride_h == 0 && dw % shape.stride_w == 0) {
            taps.push_back({dh / shape.stride_h, dw / shape.stride_w, (r * shape.s + s) * layout.tap});
          }
        }
      }
      if (taps.empty()) {
        untouched = true;
        continue;
      }
      gathers.push_back({shape.n, shape.groups, shape.group_k(), shape.p, shape.q, shape.group_c(), shape.h,
                         shape.w, ceil_div(shape.h - a, shape.stride_h),
                         ceil_div(shape.w - b, shape.stride_w), 1, 1, a, shape.stride_h, b, shape.stride_w,
                         taps.data(), static_cast<int64_t>(taps.size()), channels_last});
    }
  }
  if (untouched) fill_zeros<T>(grad_input);
  if (gathers.empty()) return;
  run_gathers<T>(gathers, grad, weight, {layout.group, layout.c, layout.k}, nullptr, grad_input,
                 channels_last, {});
}

}  // namespace cnnext
