// The tensor-core convolution for tests that choose its tile and type themselves, called through
// `_emulator.call`.
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "cuda/conv2d_backward_weight_reduce_kernel.cuh"
#include "cuda/conv2d_tensor_core_launch.cuh"

namespace {

using namespace cnnext;

struct Call {
  int64_t pass, dtype, channels_last, weight_channels_last, has_bias;
  Conv2dShape shape;

  Conv2dRequest request(const device::DeviceLimits& limits) const {
    return {shape,
            static_cast<Conv2dPass>(pass),
            static_cast<Conv2dDtype>(dtype),
            channels_last != 0,
            true,
            false,
            limits};
  }
};

// As torch gives it: aligned; and filled with NaN.
std::unique_ptr<void, void (*)(void*)> make_workspace(int64_t bytes) {
  const auto size = static_cast<size_t>(round_up<int64_t>(bytes, 256) + 256);
  std::unique_ptr<void, void (*)(void*)> workspace(std::aligned_alloc(256, size), std::free);
  std::memset(workspace.get(), 0xff, size);
  return workspace;
}

// arrays: the Call; the two operands in the order of the op; the bias or its gradient; the result.
template <class T>
void run(const Call& call, const Conv2dRequest& request, const tensor_core::Plan& plan, void* const* arrays) {
  const Conv2dShape& shape = call.shape;
  const auto *first = static_cast<const T*>(arrays[1]), *second = static_cast<const T*>(arrays[2]);
  auto *bias = static_cast<T*>(arrays[3]), *result = static_cast<T*>(arrays[4]);
  if (request.pass != Conv2dPass::backward_weight) {
    const auto packed = make_workspace(plan.packed_bytes);
    const Conv2dEpilogue<T> epilogue{call.has_bias ? bias : nullptr};
    return tensor_core::launch_gather(request, plan, call.weight_channels_last != 0, first, second, epilogue,
                                      result, packed.get(), nullptr);
  }
  const auto sums = make_workspace(plan.splits * shape.k * shape.gemm_k() * 4);
  const auto bias_sums = make_workspace(plan.splits * shape.k * 4);
  auto *partial = static_cast<float*>(sums.get()), *partial_bias = static_cast<float*>(bias_sums.get());
  tensor_core::launch_weight(request, plan, first, second, partial, partial_bias, nullptr);
  launch_weight_reduce<T>(shape, plan.splits, true, partial, partial_bias, result, bias, nullptr);
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

// `tile` names one, or is empty for the plan's own choice.
EXPORTED void run_tensor_core(const char* tile, void* const* arrays) {
  const auto& call = *static_cast<const Call*>(arrays[0]);
  const Conv2dRequest request = call.request(device::current_device_limits());
  if (const char* reason = tensor_core::refuses(request)) throw std::runtime_error(reason);
  const auto plan = tensor_core::choose_tile(request, true, tile, nullptr);
  if (*tile != '\0' && std::strcmp(tile, tensor_core::kTiles[plan.tile].name) != 0) {
    throw std::runtime_error(std::string(tile) + " cannot run this");
  }
  switch (request.dtype) {
    case Conv2dDtype::float16:
      return run<__half>(call, request, plan, arrays);
#if CNNEXT_ARCH >= 800
    case Conv2dDtype::bfloat16:
      return run<__nv_bfloat16>(call, request, plan, arrays);
    case Conv2dDtype::float32:
      return run<float>(call, request, plan, arrays);
#endif
    default:
      throw std::runtime_error("not compiled for this architecture");
  }
}

// arrays: the Call; architecture and multiprocessors; room for the text: why not, or the tile chosen and what
// speaks against the others.
EXPORTED void explain_tensor_core(const char*, void* const* arrays) {
  const auto& call = *static_cast<const Call*>(arrays[0]);
  const auto* device = static_cast<const int64_t*>(arrays[1]);
  const int architecture = static_cast<int>(device[0]);
  const Conv2dRequest request =
      call.request({architecture, static_cast<int>(device[1]), device::shared_bytes_per_block(architecture)});
  std::string text;
  if (const char* reason = tensor_core::refuses(request)) {
    text = reason;
  } else {
    std::vector<Conv2dRejection> rejections;
    const auto plan = tensor_core::choose_tile(request, true, nullptr, &rejections);
    text = std::string(tensor_core::kTiles[plan.tile].name) + (plan.by_vectors ? " vector\n" : " gather\n");
    for (const Conv2dRejection& rejection : rejections)
      text += rejection.candidate + ": " + rejection.reason + "\n";
  }
  std::strcpy(static_cast<char*>(arrays[2]), text.c_str());
}

// The kernels that the table of tiles promises, "pass tile loader", a line for each.
EXPORTED void list_tensor_core_kernels(const char*, void* const* arrays) {
  std::string text;
  const auto add = [&](const char* pass, const char* tile, const char* loader) {
    text += std::string(pass) + " " + tile + " " + loader + "\n";
  };
  for (const tensor_core::TileRow& row : tensor_core::kTiles) {
    for (const char* pass : {"forward", "backward_input"}) {
      add(pass, row.name, "vector");
      if (row.gathers) add(pass, row.name, "gather");
    }
    if (row.weight_by_vectors) add("backward_weight", row.name, "vector");
    if (row.weight_gathers) add("backward_weight", row.name, "gather");
  }
  std::strcpy(static_cast<char*>(arrays[0]), text.c_str());
}
