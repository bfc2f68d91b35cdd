// Launches of the tensor-core weight gradient, for one element type.
#pragma once

#include "conv2d_tensor_core_launch.cuh"
#include "conv2d_tensor_core_weight_kernel.cuh"

namespace cnnext::tensor_core {

template <class Config, bool kVector, class T>
void launch_weight(const TensorCorePlan& plan, const Conv2dShape& shape, const WeightArguments<T>& args,
                   cudaStream_t stream) {
  using namespace device;
  const std::string name = kernel_name("backward_weight", plan, type_name<T>());
  const size_t shared_bytes = static_cast<size_t>(Config::stages(plan.has_async_copy)) * Config::kStageBytes +
                              2 * kTileK<Config, T> * sizeof(WeightPixel);
  launch(
      {name.c_str(),
       dim3(static_cast<unsigned>(args.tiles_m * args.tiles_n), static_cast<unsigned>(shape.groups),
            static_cast<unsigned>(plan.splits)),
       dim3(kThreads), shared_bytes, stream, flops(shape)},
      {input("grad", args.grad, shape.n * shape.k * shape.p * shape.q),
       input("input", args.x, shape.n * shape.c * shape.h * shape.w),
       output("partial", args.partial, plan.workspace_bytes / static_cast<int>(sizeof(float)))},
      [&] { return describe(shape); }, conv2d_tensor_core_weight_kernel<Config, T, kVector>, args);
}

template <class T>
void launch_reduce(const TensorCorePlan& plan, const Conv2dShape& shape, const WeightArguments<T>& args,
                   T* grad_weight, cudaStream_t stream) {
  using namespace device;
  constexpr int kReduceThreads = 256;
  const ReduceArguments reduce{args.partial,
                               plan.splits,
                               static_cast<int>(shape.groups),
                               args.tiles_m * plan.tile->tile_m,
                               args.tiles_n * plan.tile->tile_n,
                               args.group_c,
                               args.group_k,
                               args.taps,
                               shape.k * shape.gemm_k()};
  launch(
      {"conv2d_tensor_core_reduce_kernel",
       dim3(static_cast<unsigned>(ceil_div<int64_t>(reduce.count, kReduceThreads))), dim3(kReduceThreads), 0,
       stream},
      {input("partial", args.partial, plan.workspace_bytes / static_cast<int>(sizeof(float))),
       output("grad_weight", grad_weight, reduce.count)},
      [&] { return describe(shape); }, conv2d_tensor_core_reduce_kernel<T>, reduce, grad_weight);
}

}  // namespace cnnext::tensor_core

namespace cnnext {

template <class T>
void launch_tensor_core_backward_weight(const TensorCorePlan& plan, const Conv2dShape& s,
                                        TensorCoreLayout layout, const T* grad, const T* x, T* grad_weight,
                                        void* workspace, cudaStream_t stream) {
  using namespace tensor_core;
  const auto narrow = [](int64_t value) { return static_cast<int>(value); };
  const int tile_k = plan.tile->row_bytes / static_cast<int>(sizeof(T));
  const int pixels = narrow(s.gemm_m()), steps = ceil_div(pixels, tile_k);
  const WeightArguments<T> args{grad,
                                x,
                                static_cast<float*>(workspace),
                                image_strides(s.k, s.p, s.q, layout.channels_last),
                                image_strides(s.c, s.h, s.w, layout.channels_last),
                                narrow(s.h),
                                narrow(s.w),
                                narrow(s.stride_h),
                                narrow(s.stride_w),
                                narrow(s.pad_h),
                                narrow(s.pad_w),
                                narrow(s.dil_h),
                                narrow(s.dil_w),
                                narrow(s.s),
                                narrow(s.r * s.s),
                                narrow(s.group_c()),
                                narrow(s.group_k()),
                                pixels,
                                ceil_div(steps, plan.splits) * tile_k,
                                narrow(ceil_div<int64_t>(s.group_k(), plan.tile->tile_m)),
                                narrow(ceil_div<int64_t>(s.gemm_k(), plan.tile->tile_n)),
                                Divisor(s.p * s.q),
                                Divisor(s.q)};
  if (plan.tile == kTiles) {
    launch_weight<Tile128x128, true>(plan, s, args, stream);
  } else if (plan.by_vectors) {
    launch_weight<Tile64x64, true>(plan, s, args, stream);
  } else {
    launch_weight<Tile64x64, false>(plan, s, args, stream);
  }
  launch_reduce(plan, s, args, grad_weight, stream);
}

}  // namespace cnnext
