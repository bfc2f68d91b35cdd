// Launches of the weight gradient on tensor cores, for one element type.
#pragma once

#include "conv2d_tensor_core_bias_kernel.cuh"
#include "conv2d_tensor_core_launch.cuh"
#include "conv2d_tensor_core_weight_kernel.cuh"

namespace cnnext::tensor_core {

template <class Config, bool kVector, class T>
void launch_weight_tile(const Conv2dRequest& request, const Plan& plan, const WeightArguments<T>& args,
                        cudaStream_t stream) {
  using namespace device;
  const Conv2dShape& s = request.shape;
  const int stages = Config::stages(request.limits.architecture >= 80);
  const size_t shared_bytes = stages * Config::kStageBytes + 3 * kThreads * sizeof(WeightPixel);
  const int tiles_m = ceil_div(args.group_k, Config::kTileM);
  const std::string name = kernel_name("backward_weight", plan, type_name<T>());
  launch(
      {name.c_str(),
       dim3(static_cast<unsigned>(tiles_m * args.tiles_n), static_cast<unsigned>(s.groups),
            static_cast<unsigned>(plan.splits)),
       dim3(kThreads), shared_bytes, stream, conv2d_flops(s)},
      {input("grad", args.grad, s.n * s.k * s.p * s.q), input("input", args.x, s.n * s.c * s.h * s.w),
       output("partial", args.partial, plan.splits * s.k * s.gemm_k())},
      [&] { return conv2d_text(s); }, conv2d_tensor_core_weight_kernel<Config, T, kVector>, args);
}

template <class T>
void launch_bias(const Conv2dRequest& request, const Plan& plan, const WeightArguments<T>& args,
                 float* partial_bias, cudaStream_t stream) {
  using namespace device;
  const Conv2dShape& s = request.shape;
  const BiasArguments<T> bias{args.grad,   partial_bias,      args.grad_strides, static_cast<int>(s.k),
                              args.pixels, args.split_pixels, args.image_pixels};
  const int64_t blocks = request.channels_last ? ceil_div<int64_t>(s.k, 32) : s.k;
  launch(
      {"conv2d_tensor_core_bias_kernel",
       dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(plan.splits)), dim3(kBiasWarps * 32), 0,
       stream},
      {input("grad", args.grad, s.n * s.k * s.p * s.q),
       output("partial_bias", partial_bias, plan.splits * s.k)},
      [&] { return conv2d_text(s); }, conv2d_tensor_core_bias_kernel<T>, bias);
}

template <class T>
void launch_weight(const Conv2dRequest& request, const Plan& plan, const T* grad, const T* x, float* partial,
                   float* partial_bias, cudaStream_t stream) {
  const Conv2dShape& s = request.shape;
  const TileRow& tile = kTiles[plan.tile];
  const auto narrow = [](int64_t value) { return static_cast<int>(value); };
  const int tile_k = tile.row_bytes / static_cast<int>(sizeof(T));
  WeightArguments<T> args{};
  args.grad = grad, args.x = x, args.partial = partial;
  args.grad_strides = image_strides(s.k, s.p, s.q, request.channels_last);
  args.x_strides = image_strides(s.c, s.h, s.w, request.channels_last);
  args.h = narrow(s.h), args.w = narrow(s.w);
  args.stride_h = narrow(s.stride_h), args.stride_w = narrow(s.stride_w);
  args.pad_h = narrow(s.pad_h), args.pad_w = narrow(s.pad_w);
  args.dilation_h = Divisor(s.dil_h), args.dilation_w = Divisor(s.dil_w);
  args.tap_rows = narrow(s.r), args.tap_columns = narrow(s.s), args.taps = narrow(s.r * s.s);
  args.group_c = narrow(s.group_c()), args.group_k = narrow(s.group_k());
  args.pixels = narrow(s.gemm_m());
  args.split_pixels = narrow(splits_of(request, tile).steps) * tile_k;
  args.tiles_n = narrow(ceil_div<int64_t>(s.gemm_k(), tile.tile_n));
  args.image_pixels = Divisor(s.p * s.q), args.columns = Divisor(s.q);
  if (plan.tile == 0) {
    launch_weight_tile<Tile128x128, true>(request, plan, args, stream);
  } else if (plan.by_vectors) {
    launch_weight_tile<Tile64x64, true>(request, plan, args, stream);
  } else {
    launch_weight_tile<Tile64x64, false>(request, plan, args, stream);
  }
  launch_bias(request, plan, args, partial_bias, stream);
}

}  // namespace cnnext::tensor_core
