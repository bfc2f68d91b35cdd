// conv2d on tensor cores, forward and input gradient, as an implicit GEMM (conv2d_shape.h):
//   destination[m, n] = Σ_k A[m, k] · B[k, n]
// with m a destination pixel of any image, n a destination channel of the group, k = (tap, source channel).
// Layouts: NCHW or NHWC, any channels; sums in fp32 from fp16, bf16 or tf32 operands.
// Idea: A is never made; each step of gemm_k is gathered into shared memory some stages ahead, while warps
// multiply the oldest stage by mma.sync.
// Files: _load (gathering), _main_loop and _compute (multiplying), _store (epilogue), _pack (the order of the
// weights), conv2d_layout.cuh (which pixels and taps meet, in strided gradients too).
// Limits: conv2d_tensor_core_choose.h, refuses().
// Source: Chetlur et al., "cuDNN: efficient primitives for deep learning", 2014; PTX ISA, "mma.sync" and
// "cp.async".
#pragma once

#include "conv2d_tensor_core_load.cuh"
#include "conv2d_tensor_core_main_loop.cuh"
#include "conv2d_tensor_core_store.cuh"
#include "device/shared_memory.cuh"

namespace cnnext::tensor_core {

// Shared memory, sized by the launch: the stages, where before them the pixels are described and behind them
// the epilogue works, and then the taps.
template <class Config>
struct GatherShared {
  static constexpr int kBufferBytes = Config::buffer_bytes(kHasAsyncCopy);
  alignas(128) char buffer[kBufferBytes];
  alignas(16) TapEntry taps[kMaxTaps + 1];
};

// Block (tile of n and m; group and phase): blocks of neighbouring numbers share pixels, which stay in L2.
template <class Config, class T, bool kVector>
__global__ void __launch_bounds__(kThreads, 2)
    conv2d_tensor_core_gather_kernel(const __grid_constant__ GatherArguments<T> args,
                                     const __grid_constant__ Conv2dEpilogue<T> epilogue) {
  if constexpr (!kArchitectureHas<Config, T>) {
    __trap();  // no launcher chooses it there
  } else {
    using Loader = std::conditional_t<kVector, VectorLoader<Config, T>, GatherLoader<Config, T>>;
    auto& shared = device::dynamic_shared<GatherShared<Config>>();
    const int phases = args.vertical.count * args.horizontal.count;
    const int group = blockIdx.y / phases, phase = blockIdx.y - group * phases;
    const BlockPhase v(args.vertical.phase[phase / args.horizontal.count]);
    const BlockPhase h(args.horizontal.phase[phase % args.horizontal.count]);
    const int block_m = blockIdx.x / args.tiles_n, block_n = blockIdx.x - block_m * args.tiles_n;
    const int in_image = v.count * h.count, first_pixel = block_m * Config::kTileM;
    // Phases differ by a row or column of pixels; the grid is as large as the largest needs.
    if (first_pixel >= args.images * in_image) return;
    const int first_image = first_pixel / in_image;

    auto* pixels = reinterpret_cast<PixelEntry*>(shared.buffer);
    describe_taps<kVector>(shared.taps, args, v, h);
    describe_pixels<Config>(pixels, args, v, h, first_pixel, first_image);
    __syncthreads();
    const int64_t packed_tile =
        (static_cast<int64_t>(blockIdx.y) * args.tiles_n + block_n) * args.packed_steps;
    Loader loader({args.source + first_image * args.source_strides.n +
                       static_cast<int64_t>(group) * args.source_channels * args.source_strides.c,
                   args.packed_weight + packed_tile * Config::kTileN * kTileK<Config, T>, shared.taps, pixels,
                   v.taps * h.taps, args.source_channels, args.source_strides.c, args.channels});
    __syncthreads();  // the stages take the place of the pixels

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const KContiguousReader<Operand::kA, Config::kRowBytes, Config::kWarpM> reader_a(warp / kWarpsN, lane);
    const KContiguousReader<Operand::kB, Config::kRowBytes, Config::kWarpN> reader_b(warp % kWarpsN, lane);
    Accumulators<Config> d = {};
    const int steps = ceil_div(v.taps * h.taps * args.source_channels, kTileK<Config, T>);
    accumulate<Config, T, true>(d, loader, reader_a, reader_b, shared.buffer, steps);
    static_assert(sizeof(shared.taps) >= Config::kTileM * sizeof(int64_t),
                  "offsets take the place of the taps");
    store_tile<Config>(d, shared.buffer, reinterpret_cast<int64_t*>(shared.taps), args, v, h, group,
                       first_pixel, block_n * Config::kTileN, epilogue);
  }
}

}  // namespace cnnext::tensor_core
