// Launchers of the implicit GEMM on CUDA cores: sizes and strides for the kernels, and the switch over their
// tiles and ways to copy.
#pragma once

#include "conv2d_implicit_gemm.h"
#include "conv2d_implicit_gemm_kernel.cuh"
#include "conv2d_implicit_gemm_weight_kernel.cuh"

namespace cnnext::implicit_gemm {

inline StoreOrder store_order(const GatherProblem& problem, bool aligned, int chunk) {
  if (!aligned) return StoreOrder::scalar;
  if (problem.channels_last)
    return problem.out % chunk == 0 ? StoreOrder::along_channels : StoreOrder::scalar;
  const bool dense = problem.phases_h * problem.phases_w == 1;
  const int plane = problem.rows[0].count * problem.cols[0].count;
  return dense && plane % chunk == 0 ? StoreOrder::along_pixels : StoreOrder::scalar;
}

inline GatherProblem gather_problem(const Conv2dShape& s, Conv2dPass pass, Conv2dLayouts layouts) {
  const bool backward = pass == Conv2dPass::backward_input, last = layouts.channels_last;
  const ImageStrides x = image_strides(s.c, s.h, s.w, last), y = image_strides(s.k, s.p, s.q, last);
  const WeightStrides w = weight_strides(s.group_c(), s.r, s.s, layouts.weight_channels_last);
  GatherProblem problem{};
  problem.images = static_cast<int>(s.n), problem.groups = static_cast<int>(s.groups);
  problem.in = static_cast<int>(backward ? s.group_k() : s.group_c());
  problem.out = static_cast<int>(backward ? s.group_c() : s.group_k());
  problem.source_h = static_cast<int>(backward ? s.p : s.h);
  problem.source_w = static_cast<int>(backward ? s.q : s.w);
  problem.channels_last = last;
  problem.source = backward ? y : x, problem.destination = backward ? x : y;
  problem.weight_group = s.group_k() * w.k, problem.weight_out = backward ? w.c : w.k;
  problem.weight_in = static_cast<int>(backward ? w.k : w.c);
  problem.weight_r = static_cast<int>(w.r), problem.weight_s = static_cast<int>(w.s);
  problem.by_in = Divisor(problem.in);
  problem.phases_h = static_cast<int>(backward ? s.stride_h : 1);
  problem.phases_w = static_cast<int>(backward ? s.stride_w : 1);
  if (!backward) {
    problem.rows[0] = GemmAxis(forward_axis(s.p, s.r, s.stride_h, s.pad_h, s.dil_h));
    problem.cols[0] = GemmAxis(forward_axis(s.q, s.s, s.stride_w, s.pad_w, s.dil_w));
    return problem;
  }
  for (int phase = 0; phase < problem.phases_h; ++phase) {
    problem.rows[phase] = GemmAxis(backward_input_axis(s.h, s.r, s.stride_h, s.pad_h, s.dil_h, phase));
  }
  for (int phase = 0; phase < problem.phases_w; ++phase) {
    problem.cols[phase] = GemmAxis(backward_input_axis(s.w, s.s, s.stride_w, s.pad_w, s.dil_w, phase));
  }
  return problem;
}

inline const char* load_name(Load load) {
  switch (load) {
    case Load::scalar:
      return "scalar";
    case Load::scalar_k:
      return "scalar_k";
    case Load::vector_k:
      return "vector_k";
    default:
      return "vector_extent";
  }
}

template <class T>
struct GatherCall {
  const Conv2dShape& shape;
  const T *source, *weight;
  const Conv2dPrologue<T>& prologue;
  const Conv2dEpilogue<T>& epilogue;
  T* destination;
  cudaStream_t stream;
};

template <class Config, Load kSource, Load kWeight, bool kNormed, class T>
void launch_gather_kernel(const TileRow& tile, const GatherProblem& problem, const GatherCall<T>& call) {
  using namespace device;
  static const std::string name = std::string("conv2d_gather_implicit_gemm_kernel ") + tile.name + " " +
                                  load_name(kSource) + " " + load_name(kWeight);
  const int pixels = problem.images * problem.rows[0].count * problem.cols[0].count;  // no phase has more
  if (pixels == 0) return;
  const dim3 grid(static_cast<unsigned>(ceil_div(pixels, Config::kTileM)),
                  static_cast<unsigned>(ceil_div(problem.out, Config::kTileN)),
                  static_cast<unsigned>(problem.groups * problem.phases_h * problem.phases_w));
  const Conv2dShape& s = call.shape;
  const Conv2dPrologue<T>& prologue = call.prologue;
  const Conv2dEpilogue<T>& epilogue = call.epilogue;
  const auto count = [](const void* pointer, int64_t values) { return pointer != nullptr ? values : 0; };
  const int64_t channels = int64_t{problem.groups} * problem.out,
                source_channels = int64_t{problem.groups} * problem.in,
                values = problem.images * problem.destination.n;
  launch(
      {name.c_str(), grid, dim3(Config::kThreads), 0, call.stream, conv2d_flops(s)},
      {input("source", call.source, problem.images * problem.source.n),
       input("weight", call.weight, s.k * s.gemm_k()),
       input("center", prologue.center, count(prologue.center, source_channels)),
       input("scale", prologue.scale, count(prologue.scale, source_channels)),
       input("offset", prologue.offset, count(prologue.offset, source_channels)),
       input("bias", epilogue.bias, count(epilogue.bias, channels)),
       input("residual", epilogue.residual, count(epilogue.residual, values)),
       output("moments", epilogue.moments, count(epilogue.moments, 2 * channels * grid.x)),
       output("destination", call.destination, values)},
      [&] { return conv2d_text(s); },
      conv2d_gather_implicit_gemm_kernel<Config, T, kSource, kWeight, kNormed>, problem, call.source,
      call.weight, prologue, epilogue, call.destination);
}

// Vectors need channels that come in whole vectors, in every group, and aligned tensors.
template <class Config, class T>
void launch_gather_tile(const TileRow& tile, GatherProblem& problem, const GatherCall<T>& call, bool backward,
                        bool weight_channels_last) {
  constexpr int kVector = Config::kChunk;
  // Larger tiles use a value so often that more instructions for its copy cost more than more sectors.
  constexpr Load kLastScalar = Config::kThreadM < 8 ? Load::scalar_k : Load::scalar;
  const auto aligned = [](const T* pointer, int values) {
    return pointer == nullptr || reinterpret_cast<uintptr_t>(pointer) % (values * sizeof(T)) == 0;
  };
  problem.store = store_order(problem,
                              aligned(call.destination, kVector) && aligned(call.epilogue.bias, kVector) &&
                                  aligned(call.epilogue.residual, kVector),
                              kVector);
  const bool vectors = problem.channels_last && weight_channels_last && problem.in % kVector == 0 &&
                       aligned(call.source, kVector) && aligned(call.weight, kVector);
  if (call.prologue.exists()) {  // forward
    if (vectors)
      return launch_gather_kernel<Config, Load::vector_k, Load::vector_k, true>(tile, problem, call);
    if (problem.channels_last)
      return launch_gather_kernel<Config, kLastScalar, Load::scalar, true>(tile, problem, call);
    return launch_gather_kernel<Config, Load::scalar, Load::scalar, true>(tile, problem, call);
  }
  if (vectors && !backward) {
    launch_gather_kernel<Config, Load::vector_k, Load::vector_k, false>(tile, problem, call);
  } else if (vectors && problem.out % kVector == 0) {
    launch_gather_kernel<Config, Load::vector_k, Load::vector_extent, false>(tile, problem, call);
  } else if (problem.channels_last) {
    launch_gather_kernel<Config, kLastScalar, Load::scalar, false>(tile, problem, call);
  } else {
    launch_gather_kernel<Config, Load::scalar, Load::scalar, false>(tile, problem, call);
  }
}

template <class Config, Load kLoad, bool kNormed, class T>
void launch_weight_kernel(const TileRow& tile, const Conv2dShape& s, const WeightProblem& problem,
                          const T* grad, const T* x, const Conv2dPrologue<T>& prologue, compute_t<T>* partial,
                          compute_t<T>* partial_bias, cudaStream_t stream) {
  using namespace device;
  static const std::string name =
      std::string("conv2d_backward_weight_implicit_gemm_kernel ") + tile.name + " " + load_name(kLoad);
  const dim3 grid(static_cast<unsigned>(ceil_div(problem.group_k, Config::kTileM)),
                  static_cast<unsigned>(ceil_div(problem.gemm_n(), Config::kTileN)),
                  static_cast<unsigned>(problem.groups * problem.splits));
  launch(
      {name.c_str(), grid, dim3(Config::kThreads), 0, stream, conv2d_flops(s)},
      {input("grad", grad, s.gemm_m() * s.k), input("input", x, s.n * s.c * s.h * s.w),
       input("center", prologue.center, s.c), input("scale", prologue.scale, s.c),
       input("offset", prologue.offset, s.c), output("partial", partial, problem.splits * s.k * s.gemm_k()),
       output("partial_bias", partial_bias, problem.splits * s.k)},
      [&] { return conv2d_text(s); }, conv2d_backward_weight_implicit_gemm_kernel<Config, T, kLoad, kNormed>,
      problem, grad, x, prologue, partial, partial_bias);
}

inline WeightProblem weight_problem(const Conv2dShape& s, bool channels_last, int splits) {
  const auto narrow = [](int64_t value) { return static_cast<int>(value); };
  WeightProblem problem{};
  problem.images = narrow(s.n), problem.groups = narrow(s.groups);
  problem.group_k = narrow(s.group_k()), problem.group_c = narrow(s.group_c());
  problem.h = narrow(s.h), problem.w = narrow(s.w), problem.p = narrow(s.p), problem.q = narrow(s.q);
  problem.r = narrow(s.r), problem.s = narrow(s.s);
  problem.stride_h = narrow(s.stride_h), problem.stride_w = narrow(s.stride_w);
  problem.pad_h = narrow(s.pad_h), problem.pad_w = narrow(s.pad_w);
  problem.dil_h = narrow(s.dil_h), problem.dil_w = narrow(s.dil_w);
  problem.channels_last = channels_last, problem.pixels = narrow(s.gemm_m()), problem.splits = splits;
  problem.pixels_per_split = ceil_div(problem.pixels, splits);
  problem.x = image_strides(s.c, s.h, s.w, channels_last);
  problem.grad = image_strides(s.k, s.p, s.q, channels_last);
  problem.by_q = Divisor(s.q), problem.by_p = Divisor(s.p), problem.by_s = Divisor(s.s);
  problem.by_c = Divisor(s.group_c()), problem.by_r = Divisor(s.r);
  return problem;
}

template <class Config, class T>
void launch_weight_tile(const TileRow& tile, const Conv2dShape& s, bool channels_last, int splits,
                        const T* grad, const T* x, const Conv2dPrologue<T>& prologue, compute_t<T>* partial,
                        compute_t<T>* partial_bias, cudaStream_t stream) {
  constexpr int kVector = Config::kChunk;
  const WeightProblem problem = weight_problem(s, channels_last, splits);
  const bool vectors = channels_last && problem.group_k % kVector == 0 && problem.group_c % kVector == 0 &&
                       device::can_vectorize<kVector>(grad, kVector) &&
                       device::can_vectorize<kVector>(x, kVector);
  const auto launch_with = [&](auto load, auto normed) {
    launch_weight_kernel<Config, load.value, normed.value>(tile, s, problem, grad, x, prologue, partial,
                                                           partial_bias, stream);
  };
  const auto launch_by = [&](auto load) {
    prologue.exists() ? launch_with(load, std::true_type{}) : launch_with(load, std::false_type{});
  };
  if (vectors) return launch_by(std::integral_constant<Load, Load::vector_extent>{});
  if (channels_last) return launch_by(std::integral_constant<Load, Load::scalar>{});
  launch_by(std::integral_constant<Load, Load::scalar_k>{});
}

// Calls run(Config) with the tile that row `tile` of the chooser's table stands for.
template <class T, class Run>
void with_tile(int tile, Run&& run) {
  if constexpr (sizeof(T) == 8) {
    run(Tile64x64Double{}, kDoubleTile);
  } else if constexpr (sizeof(T) == 2) {
    run(Tile64x64Narrow{}, kNarrowTile);
  } else {
    switch (tile) {
      case 0:
        return run(Tile128x128{}, kTiles[0]);
      case 1:
        return run(Tile128x64{}, kTiles[1]);
      case 2:
        return run(Tile64x64{}, kTiles[2]);
      default:
        return run(Tile64x32{}, kTiles[3]);
    }
  }
}

template <class T>
void launch_gather(const Conv2dShape& shape, Conv2dPass pass, Conv2dLayouts layouts, int tile,
                   const T* source, const T* weight, const Conv2dPrologue<T>& prologue,
                   const Conv2dEpilogue<T>& epilogue, T* destination, cudaStream_t stream) {
  GatherProblem problem = gather_problem(shape, pass, layouts);
  const GatherCall<T> call{shape, source, weight, prologue, epilogue, destination, stream};
  with_tile<T>(tile, [&](auto config, const TileRow& row) {
    launch_gather_tile<decltype(config)>(row, problem, call, pass == Conv2dPass::backward_input,
                                         layouts.weight_channels_last);
  });
}

template <class T>
void launch_weight(const Conv2dShape& shape, bool channels_last, int tile, int splits, const T* grad,
                   const T* x, const Conv2dPrologue<T>& prologue, compute_t<T>* partial,
                   compute_t<T>* partial_bias, cudaStream_t stream) {
  with_tile<T>(tile, [&](auto config, const TileRow& row) {
    launch_weight_tile<decltype(config)>(row, shape, channels_last, splits, grad, x, prologue, partial,
                                         partial_bias, stream);
  });
}

#define CNNEXT_INSTANTIATE_IMPLICIT_GEMM(T)                                                              \
  template void launch_gather<T>(const Conv2dShape&, Conv2dPass, Conv2dLayouts, int, const T*, const T*, \
                                 const Conv2dPrologue<T>&, const Conv2dEpilogue<T>&, T*, cudaStream_t);  \
  template void launch_weight<T>(const Conv2dShape&, bool, int, int, const T*, const T*,                 \
                                 const Conv2dPrologue<T>&, compute_t<T>*, compute_t<T>*, cudaStream_t);

}  // namespace cnnext::implicit_gemm
