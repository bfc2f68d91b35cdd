// The launches of the kernels in this folder, by name; the same under nvcc and the emulator.
#pragma once

#include <map>
#include <stdexcept>
#include <string>

#include "barriers.cuh"
#include "collectives.cuh"
#include "copies.cuh"
#include "counted.cuh"
#include "cuda/device/launch.cuh"
#include "layouts.cuh"
#include "memory.cuh"
#include "races.cuh"

namespace faults {

using cnnext::device::inout;
using cnnext::device::input;
using cnnext::device::launch;
using cnnext::device::LaunchConfig;
using cnnext::device::output;
using cnnext::device::scratch;

template <class T>
T* array(void* const* arrays, int i) {
  return static_cast<T*>(arrays[i]);
}

// y[count] is the only array.
template <void (*kKernel)(float*)>
void write_only(const char* name, int count, size_t shared_bytes, void* const* arrays) {
  auto* y = array<float>(arrays, 0);
  launch(
      {name, dim3(1), dim3(count), shared_bytes}, {output("y", y, count)}, [] { return "y only"; }, kKernel,
      y);
}

template <void (*kKernel)(const float*, float*)>
void read_write(LaunchConfig config, int x_count, int y_count, void* const* arrays) {
  const auto* x = array<const float>(arrays, 0);
  auto* y = array<float>(arrays, 1);
  launch(config, {input("x", x, x_count), output("y", y, y_count)}, [] { return "x and y"; }, kKernel, x, y);
}

template <class T>
void multiply(const char* name, void (*kernel)(const T*, const T*, float*), void* const* arrays) {
  const auto* a = array<const T>(arrays, 0);
  const auto* b = array<const T>(arrays, 1);
  auto* y = array<float>(arrays, 2);
  launch(
      {name, dim3(1), dim3(32), sizeof(Operands<T>)},
      {input("a", a, 16 * kLayoutK), input("b", b, kLayoutK * 8), output("y", y, 128)},
      [] { return "16 x 8 x 32"; }, kernel, a, b, y);
}

template <bool kPlanted>
void input_written(void* const* arrays) {
  auto *x = array<float>(arrays, 0), *y = array<float>(arrays, 1);
  launch(
      {"input_written", dim3(1), dim3(64)}, {input("x", x, 64), output("y", y, 64)}, [] { return "x and y"; },
      input_written_kernel<kPlanted>, x, y);
}

template <bool kPlanted>
void between_blocks(void* const* arrays) {
  auto *partial = array<float>(arrays, 0), *total = array<float>(arrays, 2);
  auto* counter = array<unsigned>(arrays, 1);
  launch(
      {"between_blocks", dim3(4), dim3(1)},
      {output("partial", partial, 4), inout("counter", counter, 1), scratch("total", total, 1)},
      [] { return "4 partial sums"; }, between_blocks_kernel<kPlanted>, partial, counter, total);
}

inline void any_order(void* const* arrays) {
  const auto* x = array<const float>(arrays, 0);
  auto* y = array<float>(arrays, 1);
  auto* most = array<unsigned>(arrays, 2);
  launch(
      {"any_order", dim3(3), dim3(kOrderThreads), sizeof(Banks)},
      {input("x", x, 3 * kOrderThreads), output("y", y, 3 * kOrderThreads), inout("most", most, 1)},
      [] { return "3 blocks"; }, any_order_kernel, x, y, most);
}

inline void reductions(void* const* arrays) {
  const auto* x = array<const int>(arrays, 0);
  auto* y = array<int>(arrays, 1);
  launch(
      {"reductions", dim3(1), dim3(32)}, {input("x", x, 32), output("y", y, 256)}, [] { return "8 x 32"; },
      reductions_kernel, x, y);
}

#if defined(CNNEXT_EMULATED)
// Not CUDA: a bug of the host code that a kernel shares with it may throw.
inline void throwing(void* const* arrays) {
  auto* y = array<float>(arrays, 0);
  const auto kernel = +[](float*) {
    if (threadIdx.x == 5) {
      throw std::out_of_range("thrown by thread 5");
    }
    __syncthreads();
  };
  launch({"throwing", dim3(1), dim3(64)}, {output("y", y, 64)}, [] { return "y only"; }, kernel, y);
}
#endif

using Case = void (*)(void* const* arrays);

#define FAULTS_WRITE_ONLY(name, count, shared_bytes)                                                         \
  {#name "/sound", [](void* const* a) { write_only<name##_kernel<false>>(#name, count, shared_bytes, a); }}, \
  {                                                                                                          \
    #name "/planted", [](void* const* a) { write_only<name##_kernel<true>>(#name, count, shared_bytes, a); } \
  }
#define FAULTS_READ_WRITE(name, threads, shared_bytes, x_count, y_count)                                   \
  {#name "/sound",                                                                                         \
   [](void* const* a) {                                                                                    \
     read_write<name##_kernel<false>>({#name, dim3(1), dim3(threads), shared_bytes}, x_count, y_count, a); \
   }},                                                                                                     \
  {                                                                                                        \
    #name "/planted", [](void* const* a) {                                                                 \
      read_write<name##_kernel<true>>({#name, dim3(1), dim3(threads), shared_bytes}, x_count, y_count, a); \
    }                                                                                                      \
  }

inline const std::map<std::string, Case>& cases() {
  static const std::map<std::string, Case> table = {
      FAULTS_WRITE_ONLY(barrier_not_reached, 64, 0),
      FAULTS_WRITE_ONLY(divergent_barrier, 64, 0),
      FAULTS_WRITE_ONLY(named_barrier, 64, 0),
      FAULTS_WRITE_ONLY(collective_not_reached, 32, 0),
      FAULTS_WRITE_ONLY(divergent_collective, 32, 0),
      FAULTS_WRITE_ONLY(undefined_shuffle, 32, 0),
      FAULTS_WRITE_ONLY(read_after_write, 64, sizeof(Exchange)),
      FAULTS_WRITE_ONLY(write_after_read, 64, sizeof(Exchange)),
      FAULTS_WRITE_ONLY(warp_exchange, 64, sizeof(Exchange)),
      FAULTS_WRITE_ONLY(unwritten_shared, 64, sizeof(Row)),
      FAULTS_WRITE_ONLY(unwritten_output, 64, 0),
      FAULTS_WRITE_ONLY(output_left, 64, 0),
      FAULTS_WRITE_ONLY(shared_bounds, 64, sizeof(Row) - sizeof(float)),
      FAULTS_READ_WRITE(global_bounds, 64, 0, 63, 64),
      FAULTS_READ_WRITE(misaligned_vector, 64, 0, 68, 64),
      FAULTS_READ_WRITE(misaligned_plain, 64, 0, 68, 64),
      FAULTS_READ_WRITE(copy_used_early, 32, sizeof(Stages), 64, 64),
      FAULTS_READ_WRITE(copy_never_waited, 32, sizeof(Stages), 64, 64),
#if defined(CNNEXT_EMULATED)
      {"throwing", throwing},
#endif
      {"input_written/sound", input_written<false>},
      {"input_written/planted", input_written<true>},
      {"between_blocks/sound", between_blocks<false>},
      {"between_blocks/planted", between_blocks<true>},
      {"invalid_launch/planted",
       [](void* const* a) { write_only<shared_bounds_kernel<false>>("invalid_launch", 64, 300 * 1024, a); }},
      {"copy_zero_fill",
       [](void* const* a) {
         read_write<copy_zero_fill_kernel>({"copy_zero_fill", dim3(1), dim3(32), sizeof(Stages)}, 64, 64, a);
       }},
      {"strided_copy_1",
       [](void* const* a) {
         read_write<strided_copy_kernel<1>>({"strided_copy_1", dim3(2), dim3(64)}, 1024, 128, a);
       }},
      {"strided_copy_8",
       [](void* const* a) {
         read_write<strided_copy_kernel<8>>({"strided_copy_8", dim3(2), dim3(64)}, 1024, 128, a);
       }},
      {"vector_copy",
       [](void* const* a) {
         read_write<vector_copy_kernel>({"vector_copy", dim3(2), dim3(64)}, 512, 512, a);
       }},
      {"diverged_loads",
       [](void* const* a) {
         read_write<diverged_loads_kernel>({"diverged_loads", dim3(1), dim3(32)}, 64, 32, a);
       }},
      {"shared_stride_1",
       [](void* const* a) { write_only<shared_stride_kernel<1>>("shared_stride_1", 32, 4096, a); }},
      {"shared_stride_8",
       [](void* const* a) { write_only<shared_stride_kernel<8>>("shared_stride_8", 32, 4096, a); }},
      {"any_order", any_order},
      {"reductions", reductions},
      {"mma_f16", [](void* const* a) { multiply<__half>("mma_f16", mma_k16_kernel<__half, false>, a); }},
      {"mma_f16_trans",
       [](void* const* a) { multiply<__half>("mma_f16_trans", mma_k16_kernel<__half, true>, a); }},
      {"mma_bf16",
       [](void* const* a) { multiply<__nv_bfloat16>("mma_bf16", mma_k16_kernel<__nv_bfloat16, false>, a); }},
      {"mma_k8", [](void* const* a) { multiply<__half>("mma_k8", mma_k8_kernel<false>, a); }},
      {"mma_k8_trans", [](void* const* a) { multiply<__half>("mma_k8_trans", mma_k8_kernel<true>, a); }},
      {"ldmatrix_trans",
       [](void* const* a) { multiply<__half>("ldmatrix_trans", ldmatrix_trans_kernel, a); }},
      {"mma_tf32", [](void* const* a) { multiply<float>("mma_tf32", mma_tf32_kernel, a); }},
  };
  return table;
}

#undef FAULTS_WRITE_ONLY
#undef FAULTS_READ_WRITE

}  // namespace faults
