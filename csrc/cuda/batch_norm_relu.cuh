// The ReLU behind a batch norm in the backward passes: a gate on the gradient. Its mask is not kept, but
// found again as the forward pass found it.
#pragma once

#include "batch_norm_batch.cuh"
#include "batch_norm_normalise.cuh"

namespace cnnext {

enum class ReluGate {
  open,    // there is no ReLU
  input,   // its argument is the normalised input, computed anew
  output,  // a residual was added before it: what it let through is where its output is positive
};

template <class T>
struct BatchNormGate {
  using C = compute_t<T>;

  ReluGate kind = ReluGate::open;
  const T* output = nullptr;                    // of the layer, for ReluGate::output
  const C *scale = nullptr, *offset = nullptr;  // [c], of the forward pass, for ReluGate::input
};

// What a block needs for ReluGate::input.
template <class C>
struct GateTiles {
  BatchNormTile<C> scale, offset;
};

template <class T, class Walk>
class BatchNormGateOfThread {
  using C = compute_t<T>;

 public:
  CNNEXT_DEVICE BatchNormGateOfThread(const BatchNormGate<T>& gate, const Walk& walk, GateTiles<C>& tiles)
      : kind_(gate.kind), output_(gate.output), tiles_(tiles) {
    const int slot = static_cast<int>(threadIdx.x);
    const int64_t channel = walk.first_channel() + slot;
    if (kind_ != ReluGate::input || slot >= walk.block_channels() || channel >= walk.channels()) return;
    tiles.scale.values[slot] = gate.scale[channel];
    tiles.offset.values[slot] = gate.offset[channel];
  }

  // Zero in place of the gradients that the ReLU holds back. All threads have passed a barrier since the
  // constructor.
  CNNEXT_DEVICE void close(const Walk& walk, const BatchNormBatch<T, Walk>& inputs,
                           const C (&center)[Walk::kSums], BatchNormBatch<T, Walk>& grads) const {
    if (kind_ == ReluGate::input) {
      C scale[Walk::kSums], offset[Walk::kSums];
#pragma unroll
      for (int m = 0; m < Walk::kSums; ++m) {
        scale[m] = walk.active() ? tiles_.scale.values[walk.slot(m)] : C{0};
        offset[m] = walk.active() ? tiles_.offset.values[walk.slot(m)] : C{0};
      }
      grads.zero_where([&](int b, int i, int m) {
        return normalised(inputs(b, i), center[m], scale[m], offset[m]) <= C{0};
      });
    } else if (kind_ == ReluGate::output) {
      BatchNormBatch<T, Walk> outputs;
      outputs.load(walk, grads.first, output_);
      grads.zero_where([&](int b, int i, int) { return outputs(b, i) <= C{0}; });
    }
  }

 private:
  const ReluGate kind_;
  const T* output_;
  const GateTiles<C>& tiles_;
};

}  // namespace cnnext
