// The arguments of the batch_norm ops, checked once for every device. What differs between devices is where
// the other tensors must lie: check_device(tensor, name, other, other_name) throws if not beside `other`.
#pragma once

#include "checks.h"

namespace cnnext {

// The dtype of statistics and of the parameters' gradients.
inline ScalarType batch_norm_compute_dtype(const Tensor& input) {
  return input.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

struct BatchNormParameter {
  const char* name;
  const std::optional<Tensor>& tensor;
};

// One value per channel, all of `input`'s dtype or all of the one it is calculated in.
template <typename CheckDevice>
void check_batch_norm_parameters(const Tensor& input, std::initializer_list<BatchNormParameter> parameters,
                                 const CheckDevice& check_device) {
  const ScalarType compute_dtype = batch_norm_compute_dtype(input);
  const BatchNormParameter* first = nullptr;
  for (const BatchNormParameter& parameter : parameters) {
    if (!parameter.tensor) continue;
    const Tensor& tensor = *parameter.tensor;
    check_shape(tensor, parameter.name, {input.size(1)});
    check_device(tensor, parameter.name, input, "input");
    const ScalarType dtype = tensor.scalar_type();
    check(dtype == input.scalar_type() || dtype == compute_dtype, "expected `", parameter.name, "` of dtype ",
          toString(input.scalar_type()), " or ", toString(compute_dtype), " for `input` of dtype ",
          toString(input.scalar_type()), ", but got ", toString(dtype));
    if (first) check_same_dtype(*first->tensor, first->name, tensor, parameter.name);
    if (!first) first = &parameter;
  }
}

inline void check_batch_norm_eps(double eps, bool training) {
  check(training ? eps > 0 : eps >= 0, "expected `eps` to be ",
        training ? "positive in training" : "non-negative", ", but got ", eps);
}

template <typename CheckDevice>
void check_batch_norm(const Tensor& input, const std::optional<Tensor>& weight,
                      const std::optional<Tensor>& bias, const std::optional<Tensor>& running_mean,
                      const std::optional<Tensor>& running_var, bool training, double eps,
                      const CheckDevice& check_device) {
  check_rank(input, "input", 4);
  check(training || (running_mean && running_var),
        "expected `running_mean` and `running_var` without training");
  check_batch_norm_eps(eps, training);
  check_batch_norm_parameters(
      input,
      {{"weight", weight}, {"bias", bias}, {"running_mean", running_mean}, {"running_var", running_var}},
      check_device);
}

template <typename CheckDevice>
void check_batch_norm_backward(const Tensor& grad, const Tensor& input, const std::optional<Tensor>& weight,
                               const Tensor& mean, const Tensor& var, bool training, double eps,
                               const CheckDevice& check_device) {
  check_rank(input, "input", 4);
  check_shape(grad, "grad", sizes_of(input));
  check_same_dtype(grad, "grad", input, "input");
  check_device(grad, "grad", input, "input");
  check_batch_norm_eps(eps, training);
  check_batch_norm_parameters(input, {{"weight", weight}}, check_device);
  check_batch_norm_parameters(input, {{"mean", mean}, {"var", var}}, check_device);
}

template <typename CheckDevice>
void check_batch_norm_update(const Tensor& running_mean, const Tensor& running_var, const Tensor& mean,
                             const Tensor& var, int64_t count, const CheckDevice& check_device) {
  check_rank(running_mean, "running_mean", 1);
  const int64_t c = running_mean.size(0);
  check_shape(running_var, "running_var", {c});
  check_shape(mean, "mean", {c});
  check_shape(var, "var", {c});
  check_same_dtype(running_mean, "running_mean", running_var, "running_var");
  check_device(running_var, "running_var", running_mean, "running_mean");
  check_device(mean, "mean", running_mean, "running_mean");
  check_device(var, "var", running_mean, "running_mean");
  check(c < 2 || (running_mean.stride(0) != 0 && running_var.stride(0) != 0),
        "expected `running_mean` and `running_var` not to be expanded: they are written to");
  check(count >= 2, "expected `count` of at least 2 values for an unbiased variance, but got ", count);
}

}  // namespace cnnext
