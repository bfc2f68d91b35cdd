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

inline std::string kernel_name(const char* pass, const Plan& plan, const char* type) {
  return std::string("conv2d_") + pass + "_tensor_core_" + kTiles[plan.tile].name +
         (plan.by_vectors ? "_vector_" : "_gather_") + type;
}

// A launch of either pass, with the counts of elements that the emulator checks.
template <class T>
struct GatherLaunch {
  const char* pass;
  const char* source_name;
  const char* destination_name;
  GatherArguments<T> args;
  const T* weight;
  int64_t source_count, destination_count;
};

template <class T>
void launch_pack(const Plan& plan, const Conv2dRequest& request, const GatherLaunch<T>& call,
                 PackArguments<T> pack, cudaStream_t stream) {
  using namespace device;
  const GatherArguments<T>& args = call.args;
  pack.weight = call.weight;
  pack.packed = const_cast<T*>(args.packed_weight);
  pack.vertical = args.vertical, pack.horizontal = args.horizontal;
  pack.source_channels = args.source_channels, pack.destination_channels = args.destination_channels;
  pack.tile_n = kTiles[plan.tile].tile_n, pack.tiles_n = args.tiles_n, pack.steps = args.packed_steps;
  pack.row_chunks = kTiles[plan.tile].row_bytes / kChunkBytes;
  pack.tile = pack_tile(kPerChunk<T>, pack.taps, pack.source_channels);
  launch(
      {"conv2d_tensor_core_pack_kernel",
       dim3(static_cast<unsigned>(pack.tiles_n * pack.tile_n / pack.tile.rows),
            static_cast<unsigned>(ceil_div(pack.source_channels, pack.tile.channels)),
            static_cast<unsigned>(request.shape.groups)),
       dim3(kPackThreads), 0, stream},
      {input("weight", call.weight, request.shape.k * request.shape.gemm_k()),
       output("packed_weight", pack.packed, plan.packed_bytes / static_cast<int>(sizeof(T)))},
      [&] { return conv2d_text(request.shape); }, conv2d_tensor_core_pack_kernel<T>, pack);
}

template <class Config, bool kVector, class T>
void launch_gather(const Plan& plan, const Conv2dRequest& request, const GatherLaunch<T>& call,
                   const Conv2dEpilogue<T>& epilogue, cudaStream_t stream) {
  using namespace device;
  const GatherArguments<T>& args = call.args;
  int64_t pixels = 0;  // of the largest phase
  for (int v = 0; v < args.vertical.count; ++v) {
    for (int h = 0; h < args.horizontal.count; ++h) {
      pixels = larger(pixels, args.images * args.vertical.phase[v].count * args.horizontal.phase[h].count);
    }
  }
  const int64_t blocks = ceil_div<int64_t>(pixels, Config::kTileM) * args.tiles_n;
  const size_t shared_bytes =
      Config::buffer_bytes(request.limits.architecture >= 80) + sizeof(TapEntry) * (kMaxTaps + 1);
  const std::string name = kernel_name(call.pass, plan, type_name<T>());
  launch(
      {name.c_str(),
       dim3(static_cast<unsigned>(blocks),
            static_cast<unsigned>(request.shape.groups * args.vertical.count * args.horizontal.count)),
       dim3(kThreads), shared_bytes, stream, conv2d_flops(request.shape)},
      {input(call.source_name, args.source, call.source_count),
       input("packed_weight", args.packed_weight, plan.packed_bytes / static_cast<int>(sizeof(T))),
       input("bias", epilogue.bias, request.shape.k),
       input("residual", epilogue.residual, call.destination_count),
       output("moments", epilogue.moments, 2 * request.shape.k * ceil_div<int64_t>(pixels, Config::kTileM)),
       output(call.destination_name, args.destination, call.destination_count)},
      [&] { return conv2d_text(request.shape); }, conv2d_tensor_core_gather_kernel<Config, T, kVector>, args,
      epilogue);
}

template <class T>
void launch_planned(const Plan& plan, const Conv2dRequest& request, const GatherLaunch<T>& call,
                    const PackArguments<T>& pack, const Conv2dEpilogue<T>& epilogue, cudaStream_t stream) {
  if (call.destination_count == 0) return;
  if (plan.packed_bytes > 0) launch_pack(plan, request, call, pack, stream);
  switch (plan.tile) {
    case 0:
      return launch_gather<Tile128x128, true>(plan, request, call, epilogue, stream);
    case 1:
      return plan.by_vectors ? launch_gather<Tile128x64, true>(plan, request, call, epilogue, stream)
                             : launch_gather<Tile128x64, false>(plan, request, call, epilogue, stream);
    case 2:
      return launch_gather<Tile64x64, true>(plan, request, call, epilogue, stream);
    default:
      return plan.by_vectors ? launch_gather<Tile64x32, true>(plan, request, call, epilogue, stream)
                             : launch_gather<Tile64x32, false>(plan, request, call, epilogue, stream);
  }
}

template <class T>
GatherLaunch<T> forward_launch(const Conv2dShape& s, const Plan& plan, bool channels_last) {
  const TileRow& tile = kTiles[plan.tile];
  GatherArguments<T> args{};
  args.source_strides = image_strides(s.c, s.h, s.w, channels_last);
  args.destination_strides = image_strides(s.k, s.p, s.q, channels_last);
  args.vertical = forward_phases(s.p, s.r, s.stride_h, s.pad_h, s.dil_h);
  args.horizontal = forward_phases(s.q, s.s, s.stride_w, s.pad_w, s.dil_w);
  args.source_h = static_cast<int>(s.h), args.source_w = static_cast<int>(s.w);
  args.source_channels = static_cast<int>(s.group_c());
  args.destination_channels = static_cast<int>(s.group_k());
  args.packed_steps = static_cast<int>(ceil_div<int64_t>(s.gemm_k() * sizeof(T), tile.row_bytes));
  return {"forward", "input", "output", args, nullptr, s.n * s.c * s.h * s.w, s.n * s.k * s.p * s.q};
}

template <class T>
GatherLaunch<T> backward_input_launch(const Conv2dShape& s, const Plan& plan, bool channels_last) {
  const TileRow& tile = kTiles[plan.tile];
  GatherArguments<T> args{};
  args.source_strides = image_strides(s.k, s.p, s.q, channels_last);
  args.destination_strides = image_strides(s.c, s.h, s.w, channels_last);
  args.vertical = backward_input_phases(s.h, s.r, s.stride_h, s.pad_h, s.dil_h);
  args.horizontal = backward_input_phases(s.w, s.s, s.stride_w, s.pad_w, s.dil_w);
  args.source_h = static_cast<int>(s.p), args.source_w = static_cast<int>(s.q);
  args.source_channels = static_cast<int>(s.group_k());
  args.destination_channels = static_cast<int>(s.group_c());
  const int64_t phases = args.vertical.count * args.horizontal.count;
  const int64_t rows = s.groups * phases * round_up<int64_t>(s.group_c(), tile.tile_n);
  args.packed_steps = static_cast<int>(plan.packed_bytes / (rows * tile.row_bytes));
  return {"backward_input",     "grad", "grad_input", args, nullptr, s.n * s.k * s.p * s.q,
          s.n * s.c * s.h * s.w};
}

// Whether a pixel's channels can be stored four at a time.
template <class T>
bool stores_vectors(const GatherArguments<T>& args, const Conv2dEpilogue<T>& epilogue, bool channels_last) {
  constexpr int kChannels = kStoreChannels;
  return channels_last && device::can_vectorize<kChannels>(args.destination, args.destination_channels) &&
         device::can_vectorize<kChannels>(epilogue.bias, 0) &&
         device::can_vectorize<kChannels>(epilogue.residual, 0);
}

template <class T>
void launch_gather(const Conv2dRequest& request, const Plan& plan, bool weight_channels_last, const T* source,
                   const T* weight, const Conv2dEpilogue<T>& epilogue, T* destination, void* packed,
                   cudaStream_t stream) {
  const Conv2dShape& s = request.shape;
  const bool forward = request.pass == Conv2dPass::forward, last = request.channels_last;
  GatherLaunch<T> call = forward ? forward_launch<T>(s, plan, last) : backward_input_launch<T>(s, plan, last);
  call.weight = weight;
  call.args.source = source, call.args.destination = destination;
  call.args.packed_weight = static_cast<const T*>(packed);
  call.args.images = static_cast<int>(s.n);
  call.args.tiles_n = ceil_div(call.args.destination_channels, kTiles[plan.tile].tile_n);
  call.args.channels = Divisor(call.args.source_channels);
  call.args.stores_vectors = stores_vectors(call.args, epilogue, last);
  const WeightStrides w = weight_strides(s.group_c(), s.r, s.s, weight_channels_last);
  PackArguments<T> pack{};
  pack.group_stride = s.group_k() * w.k, pack.tap_stride = w.s;
  pack.taps = static_cast<int>(s.r * s.s), pack.taps_s = static_cast<int>(s.s);
  pack.destination_stride = forward ? w.k : w.c, pack.source_stride = forward ? w.c : w.k;
  launch_planned(plan, request, call, pack, epilogue, stream);
}

}  // namespace cnnext::tensor_core
