// The arguments of the fused ops, checked once for every device; check_device as for batch_norm.
#pragma once

#include "batch_norm_checks.h"

namespace cnnext {

template <typename CheckDevice>
void check_batch_norm_relu(const Tensor& input, const Tensor& mean, const Tensor& var,
                           const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, double eps,
                           const CheckDevice& check_device) {
  check_rank(input, "input", 4);
  check_batch_norm_eps(eps, true);
  check_batch_norm_parameters(input, {{"mean", mean}, {"var", var}}, check_device);
  check_batch_norm_parameters(input, {{"weight", weight}, {"bias", bias}}, check_device);
}

// A tensor that goes value by value with `input`; it may lie in any layout.
template <typename CheckDevice>
void check_like_input(const std::optional<Tensor>& tensor, const char* name, const Tensor& input,
                      const CheckDevice& check_device) {
  if (!tensor) return;
  check_shape(*tensor, name, sizes_of(input));
  check_same_dtype(*tensor, name, input, "input");
  check_device(*tensor, name, input, "input");
}

// The norm in front of a convolution, as the ops take it.
struct InputNorm {
  const std::optional<Tensor>&mean, &var, &weight, &bias;
  double eps;

  template <typename CheckDevice>
  void check_for(const Tensor& input, const CheckDevice& check_device) const {
    check(mean.has_value() == var.has_value(), "expected `in_mean` and `in_var` both or neither");
    check(mean || (!weight && !bias),
          "expected `in_mean` and `in_var` where there is an `in_weight` or an `in_bias`");
    if (!mean) return;
    check_batch_norm_eps(eps, true);
    check_batch_norm_parameters(input, {{"in_mean", mean}, {"in_var", var}}, check_device);
    check_batch_norm_parameters(input, {{"in_weight", weight}, {"in_bias", bias}}, check_device);
  }
};

}  // namespace cnnext
