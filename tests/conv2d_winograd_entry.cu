// Winograd's algorithm for tests that choose the size of its tiles themselves, called through
// `_emulator.call`.
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "cuda/conv2d_winograd.h"

namespace {

using namespace cnnext;

struct Call {
  int64_t pass, channels_last, weight_channels_last, has_bias, allow, output, chunk_bytes, may_fuse;
  Conv2dShape shape;
};

Conv2dRequest request_of(const Call& call, const device::DeviceLimits& limits) {
  return {call.shape,
          static_cast<Conv2dPass>(call.pass),
          Conv2dDtype::float32,
          call.channels_last != 0,
          true,
          call.allow != 0,
          limits};
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

// arrays: the Call; source, weight, bias, destination.
EXPORTED void run_winograd(const char*, void* const* arrays) {
  const auto& call = *static_cast<const Call*>(arrays[0]);
  const Conv2dRequest request = request_of(call, device::current_device_limits());
  if (const char* reason = winograd::refuses(request)) throw std::runtime_error(reason);
  const auto plan =
      winograd::plan(request, static_cast<int>(call.output), call.chunk_bytes, call.may_fuse != 0);
  const int64_t floats = plan.weight_floats + plan.input_floats + plan.output_floats;
  const auto bytes = static_cast<size_t>(round_up<int64_t>(floats * 4, 256));
  const std::unique_ptr<void, void (*)(void*)> workspace(std::aligned_alloc(256, bytes), std::free);
  std::memset(workspace.get(), 0xff, bytes);
  const auto* bias = call.has_bias ? static_cast<const float*>(arrays[3]) : nullptr;
  winograd::launch_gather(request, plan, static_cast<int>(call.output), call.weight_channels_last != 0,
                          static_cast<const float*>(arrays[1]), static_cast<const float*>(arrays[2]), {},
                          {bias}, static_cast<float*>(arrays[4]), static_cast<float*>(workspace.get()),
                          nullptr);
}

// arrays: the Call; room for a text: why it cannot or should not run, or the sizes of the plan.
EXPORTED void explain_winograd(const char*, void* const* arrays) {
  const auto& call = *static_cast<const Call*>(arrays[0]);
  const Conv2dRequest request = request_of(call, device::current_device_limits());
  const int output = static_cast<int>(call.output);
  std::string text;
  if (const char* reason = winograd::refuses(request)) {
    text = std::string("refused: ") + reason;
  } else if (const char* reason = winograd::slower(request, output)) {
    text = std::string("slower: ") + reason;
  } else {
    const auto plan = winograd::plan(request, output, call.chunk_bytes, call.may_fuse != 0);
    text = "tiles " + std::to_string(plan.tiles) + ", chunk " + std::to_string(plan.chunk);
  }
  std::strcpy(static_cast<char*>(arrays[1]), text.c_str());
}
