// The tensor-core convolution for tests that choose its tile and type themselves, called through
// `_emulator.call`.
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "cuda/conv2d_tensor_core.h"

namespace {

using namespace cnnext;

struct Call {
  int64_t pass, type, channels_last, weight_channels_last, has_bias;
  Conv2dShape shape;

  Conv2dPass the_pass() const { return static_cast<Conv2dPass>(pass); }
  TensorCoreType the_type() const { return static_cast<TensorCoreType>(type); }
};

// As torch gives it: aligned; and filled with NaN.
std::unique_ptr<void, void (*)(void*)> make_workspace(int64_t bytes) {
  const auto size = static_cast<size_t>(round_up<int64_t>(bytes, 256) + 256);
  std::unique_ptr<void, void (*)(void*)> workspace(std::aligned_alloc(256, size), std::free);
  std::memset(workspace.get(), 0xff, size);
  return workspace;
}

// arrays: the Call; the two operands in the order of the op; the bias; the result.
template <class T>
void run(const Call& call, const TensorCorePlan& plan, void* const* arrays) {
  const auto *first = static_cast<const T*>(arrays[1]), *second = static_cast<const T*>(arrays[2]);
  const auto* bias = call.has_bias ? static_cast<const T*>(arrays[3]) : nullptr;
  auto* result = static_cast<T*>(arrays[4]);
  const TensorCoreLayout layout{call.channels_last != 0, call.weight_channels_last != 0};
  const auto workspace = make_workspace(plan.workspace_bytes);
  switch (call.the_pass()) {
    case Conv2dPass::forward:
      return launch_tensor_core_forward(plan, call.shape, layout, first, second, bias, result,
                                        workspace.get(), nullptr);
    case Conv2dPass::backward_input:
      return launch_tensor_core_backward_input(plan, call.shape, layout, first, second, result,
                                               workspace.get(), nullptr);
    default:
      return launch_tensor_core_backward_weight(plan, call.shape, layout, first, second, result,
                                                workspace.get(), nullptr);
  }
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

// `tile` names one, or is empty for the plan's own choice.
EXPORTED void run_tensor_core(const char* tile, void* const* arrays) {
  const auto& call = *static_cast<const Call*>(arrays[0]);
  const auto limits = device::current_device_limits();
  if (const char* reason = tensor_core_refuses(call.shape, call.the_pass(), call.the_type(), limits)) {
    throw std::runtime_error(reason);
  }
  const TensorCorePlan plan =
      plan_tensor_core(call.shape, call.the_pass(), call.the_type(), call.channels_last != 0, true, limits,
                       *tile == '\0' ? nullptr : tile);
  switch (call.the_type()) {
    case TensorCoreType::float16:
      return run<__half>(call, plan, arrays);
#if CNNEXT_ARCH >= 800
    case TensorCoreType::bfloat16:
      return run<__nv_bfloat16>(call, plan, arrays);
    case TensorCoreType::tf32:
      return run<float>(call, plan, arrays);
#endif
    default:
      throw std::runtime_error("not compiled for this architecture");
  }
}

// arrays: the Call; architecture and multiprocessors; room for the text.
EXPORTED void explain_tensor_core(const char*, void* const* arrays) {
  const auto& call = *static_cast<const Call*>(arrays[0]);
  const auto* device = static_cast<const int64_t*>(arrays[1]);
  const int architecture = static_cast<int>(device[0]);
  const device::DeviceLimits limits{architecture, static_cast<int>(device[1]),
                                    device::shared_bytes_per_block(architecture)};
  const std::string text = cnnext::explain_tensor_core(call.shape, call.the_pass(), call.the_type(),
                                                       call.channels_last != 0, true, limits);
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
