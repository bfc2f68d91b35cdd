// Launches of the tensor-core forward pass and input gradient, for one element type.
#pragma once

#include "conv2d_tensor_core.h"
#include "conv2d_tensor_core_kernel.cuh"
#include "conv2d_tensor_core_pack.cuh"
#include "device/launch.cuh"

namespace cnnext::tensor_core {

template <class T>
constexpr const char* type_name() {
  return std::is_same_v<T, float> ? "tf32" : std::is_same_v<T, __half> ? "float16" : "bfloat16";
}

inline std::string kernel_name(const char* pass, const TensorCorePlan& plan, const char* type) {
  return std::string("conv2d_") + pass + "_tensor_core_" + plan.tile->name +
         (plan.by_vectors ? "_vector_" : "_gather_") + type;
}

inline std::string describe(const Conv2dShape& s) {
  const auto list = [](std::initializer_list<int64_t> values) {
    std::string text = "[";
    for (int64_t value : values) text += (text.size() > 1 ? ", " : "") + std::to_string(value);
    return text + "]";
  };
  return "input " + list({s.n, s.c, s.h, s.w}) + ", weight " + list({s.k, s.group_c(), s.r, s.s}) +
         ", stride " + list({s.stride_h, s.stride_w}) + ", padding " + list({s.pad_h, s.pad_w}) +
         ", dilation " + list({s.dil_h, s.dil_w}) + ", groups " + std::to_string(s.groups);
}

inline double flops(const Conv2dShape& s) {
  return 2.0 * static_cast<double>(s.gemm_m()) * static_cast<double>(s.k) * static_cast<double>(s.gemm_k());
}

// A launch of either pass, with the counts of elements that the emulator checks.
template <class T>
struct GatherLaunch {
  const char* pass;
  const char* source_name;
  const char* destination_name;
  GatherArguments<T> args;
  const T* weight;
  int64_t source_count, weight_count, destination_count;
};

template <class T>
void launch_pack(const TensorCorePlan& plan, const Conv2dShape& shape, const GatherLaunch<T>& call,
                 PackArguments<T> pack, cudaStream_t stream) {
  using namespace device;
  constexpr int kPackThreads = 256;
  const GatherArguments<T>& args = call.args;
  pack.weight = call.weight;
  pack.packed = const_cast<T*>(args.packed_weight);
  pack.vertical = args.vertical, pack.horizontal = args.horizontal;
  pack.source_channels = args.source_channels, pack.destination_channels = args.destination_channels;
  pack.tile_n = plan.tile->tile_n, pack.tiles_n = args.tiles_n, pack.steps = args.packed_steps;
  pack.row_chunks = plan.tile->row_bytes / kChunkBytes;
  pack.chunks = plan.workspace_bytes / kChunkBytes;
  launch(
      {"conv2d_tensor_core_pack_kernel",
       dim3(static_cast<unsigned>(ceil_div<int64_t>(pack.chunks, kPackThreads))), dim3(kPackThreads), 0,
       stream},
      {input("weight", call.weight, call.weight_count),
       output("packed_weight", pack.packed, pack.chunks * kPerChunk<T>)},
      [&] { return describe(shape); }, conv2d_tensor_core_pack_kernel<T>, pack);
}

template <class Config, bool kVector, class T, class E>
void launch_gather(const TensorCorePlan& plan, const Conv2dShape& shape, const GatherLaunch<T>& call,
                   const E& epilogue, cudaStream_t stream) {
  using namespace device;
  const GatherArguments<T>& args = call.args;
  int64_t pixels = 0;  // of the largest phase
  for (int v = 0; v < args.vertical.count; ++v) {
    for (int h = 0; h < args.horizontal.count; ++h) {
      pixels = larger(pixels, args.images * args.vertical.phase[v].count * args.horizontal.phase[h].count);
    }
  }
  const int64_t blocks = ceil_div<int64_t>(pixels, Config::kTileM) * args.tiles_n;
  const size_t shared_bytes = Config::buffer_bytes(plan.has_async_copy) + sizeof(TapEntry) * (kMaxTaps + 1);
  const std::string name = kernel_name(call.pass, plan, type_name<T>());
  launch(
      {name.c_str(),
       dim3(static_cast<unsigned>(blocks),
            static_cast<unsigned>(shape.groups * args.vertical.count * args.horizontal.count)),
       dim3(kThreads), shared_bytes, stream, flops(shape)},
      {input(call.source_name, args.source, call.source_count),
       input("packed_weight", args.packed_weight, plan.workspace_bytes / static_cast<int>(sizeof(T))),
       input("bias", epilogue.bias, shape.k),
       output(call.destination_name, args.destination, call.destination_count)},
      [&] { return describe(shape); }, conv2d_tensor_core_gather_kernel<Config, T, kVector, E>, args,
      epilogue);
}

template <class T, class E>
void launch_planned(const TensorCorePlan& plan, const Conv2dShape& shape, const GatherLaunch<T>& call,
                    const PackArguments<T>& pack, const E& epilogue, cudaStream_t stream) {
  if (call.destination_count == 0) return;
  if (plan.workspace_bytes > 0) launch_pack(plan, shape, call, pack, stream);
  switch (plan.tile - kTiles) {
    case 0:
      return launch_gather<Tile128x128, true>(plan, shape, call, epilogue, stream);
    case 1:
      return plan.by_vectors ? launch_gather<Tile128x64, true>(plan, shape, call, epilogue, stream)
                             : launch_gather<Tile128x64, false>(plan, shape, call, epilogue, stream);
    case 2:
      return launch_gather<Tile64x64, true>(plan, shape, call, epilogue, stream);
    default:
      return plan.by_vectors ? launch_gather<Tile64x32, true>(plan, shape, call, epilogue, stream)
                             : launch_gather<Tile64x32, false>(plan, shape, call, epilogue, stream);
  }
}

// Whether a pixel's channels can be stored four at a time.
template <class T>
bool stores_vectors(const T* destination, const T* bias, int64_t group_channels, bool channels_last) {
  constexpr int kChannels = kStoreChannels;
  return channels_last && device::can_vectorize<kChannels>(destination, group_channels) &&
         device::can_vectorize<kChannels>(bias, 0);
}

}  // namespace cnnext::tensor_core

namespace cnnext {

template <class T>
void launch_tensor_core_forward(const TensorCorePlan& plan, const Conv2dShape& shape, TensorCoreLayout layout,
                                const T* x, const T* weight, const T* bias, T* y, void* workspace,
                                cudaStream_t stream) {
  using namespace tensor_core;
  const AxisPhases vertical = forward_phases(shape.p, shape.r, shape.stride_h, shape.pad_h, shape.dil_h);
  const AxisPhases horizontal = forward_phases(shape.q, shape.s, shape.stride_w, shape.pad_w, shape.dil_w);
  const int group_c = static_cast<int>(shape.group_c()), group_k = static_cast<int>(shape.group_k());
  const int tiles_n = ceil_div(group_k, plan.tile->tile_n);
  const int steps = static_cast<int>(ceil_div<int64_t>(shape.gemm_k() * sizeof(T), plan.tile->row_bytes));
  const GatherLaunch<T> call{
      "forward",
      "input",
      "output",
      {x, static_cast<const T*>(workspace), y, image_strides(shape.c, shape.h, shape.w, layout.channels_last),
       image_strides(shape.k, shape.p, shape.q, layout.channels_last), vertical, horizontal,
       static_cast<int>(shape.n), static_cast<int>(shape.h), static_cast<int>(shape.w), group_c, group_k,
       tiles_n, steps, Divisor(group_c), stores_vectors(y, bias, shape.group_k(), layout.channels_last)},
      weight,
      shape.n * shape.c * shape.h * shape.w,
      shape.k * shape.gemm_k(),
      shape.n * shape.k * shape.p * shape.q};
  const WeightStrides w = weight_strides(shape.group_c(), shape.r, shape.s, layout.weight_channels_last);
  PackArguments<T> pack{};
  pack.group_stride = shape.group_k() * w.k;
  pack.destination_stride = w.k, pack.source_stride = w.c, pack.r_stride = w.r, pack.s_stride = w.s;
  launch_planned(plan, shape, call, pack, Epilogue<T, kBias>{bias, nullptr, nullptr, nullptr, shape.k},
                 stream);
}

template <class T>
void launch_tensor_core_backward_input(const TensorCorePlan& plan, const Conv2dShape& shape,
                                       TensorCoreLayout layout, const T* grad, const T* weight, T* grad_x,
                                       void* workspace, cudaStream_t stream) {
  using namespace tensor_core;
  const AxisPhases vertical =
      backward_input_phases(shape.h, shape.r, shape.stride_h, shape.pad_h, shape.dil_h);
  const AxisPhases horizontal =
      backward_input_phases(shape.w, shape.s, shape.stride_w, shape.pad_w, shape.dil_w);
  const int group_c = static_cast<int>(shape.group_c()), group_k = static_cast<int>(shape.group_k());
  const int tiles_n = ceil_div(group_c, plan.tile->tile_n);
  const int64_t phases = vertical.count * horizontal.count;
  const int64_t tiles = shape.groups * phases * tiles_n;
  const int steps =
      static_cast<int>(plan.workspace_bytes / (tiles * plan.tile->tile_n * plan.tile->row_bytes));
  const GatherLaunch<T> call{"backward_input",
                             "grad",
                             "grad_input",
                             {grad, static_cast<const T*>(workspace), grad_x,
                              image_strides(shape.k, shape.p, shape.q, layout.channels_last),
                              image_strides(shape.c, shape.h, shape.w, layout.channels_last), vertical,
                              horizontal, static_cast<int>(shape.n), static_cast<int>(shape.p),
                              static_cast<int>(shape.q), group_k, group_c, tiles_n, steps, Divisor(group_k),
                              stores_vectors<T>(grad_x, nullptr, shape.group_c(), layout.channels_last)},
                             weight,
                             shape.n * shape.k * shape.p * shape.q,
                             shape.k * shape.gemm_k(),
                             shape.n * shape.c * shape.h * shape.w};
  const WeightStrides w = weight_strides(shape.group_c(), shape.r, shape.s, layout.weight_channels_last);
  PackArguments<T> pack{};
  pack.group_stride = shape.group_k() * w.k;
  pack.destination_stride = w.c, pack.source_stride = w.k, pack.r_stride = w.r, pack.s_stride = w.s;
  launch_planned(plan, shape, call, pack, Epilogue<T, kBias>{nullptr, nullptr, nullptr, nullptr, shape.c},
                 stream);
}

}  // namespace cnnext
