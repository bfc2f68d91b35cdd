// Every op of cnnext, one page. The implementations are registered at the foot of csrc/<device>/<op>.cpp
// (.cu), fakes and autograd formulas in cnnext/ops/<op>.py. The same schemas serve every backend's namespace.
#include <torch/csrc/stable/library.h>

#ifndef CNNEXT_NAMESPACE
#define CNNEXT_NAMESPACE cnnext
#endif
// torch 2.10 makes a string of its macro's argument before it is expanded: this one is expanded first.
#define CNNEXT_LIBRARY(name, m) STABLE_TORCH_LIBRARY(name, m)

CNNEXT_LIBRARY(CNNEXT_NAMESPACE, m) {
  m.def("corr2d(Tensor input, Tensor kernel) -> Tensor");
  m.def("corr2d_backward_input(Tensor grad, Tensor kernel) -> Tensor");
  m.def("corr2d_backward_kernel(Tensor grad, Tensor input) -> Tensor");

  // allow_tf32 and allow_winograd: what float32 may be calculated with besides itself. Who has neither (the
  // CPU) takes no notice.
  m.def(
      "conv2d(Tensor input, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, "
      "int[2] dilation, int groups, bool allow_tf32, bool allow_winograd) -> Tensor");
  m.def(
      "conv2d_backward_input(Tensor grad, Tensor weight, SymInt[] input_size, int[2] stride, "
      "int[2] padding, int[2] dilation, int groups, bool allow_tf32, bool allow_winograd) -> "
      "Tensor");
  m.def(
      "conv2d_backward_weight(Tensor grad, Tensor input, SymInt[] weight_size, int[2] stride, "
      "int[2] padding, int[2] dilation, int groups, bool allow_tf32, bool allow_winograd) -> "
      "(Tensor grad_weight, Tensor grad_bias)");

  // `tap` says which tap of its window won: r·S + s, uint8 where the window has at most 256 taps, else int32.
  m.def(
      "max_pool2d(Tensor input, int[2] kernel_size, int[2] stride, int[2] padding, "
      "int[2] dilation, bool ceil_mode) -> (Tensor output, Tensor tap)");
  m.def(
      "max_pool2d_backward(Tensor grad, Tensor tap, SymInt[] input_size, int[2] kernel_size, "
      "int[2] stride, int[2] padding, int[2] dilation) -> Tensor");
  m.def(
      "max_pool2d_gather(Tensor input, Tensor tap, int[2] kernel_size, int[2] stride, "
      "int[2] padding, int[2] dilation) -> Tensor");

  m.def(
      "avg_pool2d(Tensor input, int[2] kernel_size, int[2] stride, int[2] padding, bool ceil_mode, "
      "bool count_include_pad, int? divisor_override) -> Tensor");
  m.def(
      "avg_pool2d_backward(Tensor grad, SymInt[] input_size, int[2] kernel_size, int[2] stride, "
      "int[2] padding, bool count_include_pad, int? divisor_override) -> Tensor");
  m.def("adaptive_avg_pool2d(Tensor input, int[2] output_size) -> Tensor");
  m.def("adaptive_avg_pool2d_backward(Tensor grad, SymInt[] input_size) -> Tensor");

  // mean and var (biased) are the batch's, in float32 for 16-bit inputs and else in the input's dtype.
  // Without training they are empty: the running statistics take their place, in the backward op too.
  m.def(
      "batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, "
      "bool training, float eps) -> (Tensor output, Tensor mean, Tensor var)");
  m.def(
      "batch_norm_backward(Tensor grad, Tensor input, Tensor? weight, Tensor mean, Tensor var, "
      "bool training, float eps) -> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
  m.def(
      "batch_norm_update_(Tensor(a!) running_mean, Tensor(b!) running_var, Tensor mean, Tensor var, "
      "SymInt count, float momentum) -> ()");

  // Convolution, batch norm and ReLU fused, for training. mean and var (biased) are the statistics of the
  // convolution's output as it was rounded, in the dtypes of batch_norm's. The prologue: where in_mean and
  // in_var are given, the batch's statistics of `input`, what is convolved is relu(batch_norm(input)),
  // normalised while it is read; the padding is of zeros after that.
  m.def(
      "conv2d_statistics(Tensor input, Tensor weight, Tensor? bias, Tensor? in_mean, Tensor? in_var, "
      "Tensor? in_weight, Tensor? in_bias, float in_eps, int[2] stride, int[2] padding, int[2] dilation, "
      "int groups, bool allow_tf32, bool allow_winograd) -> (Tensor output, Tensor mean, Tensor var)");
  m.def(
      "conv2d_backward_weight_prologue(Tensor grad, Tensor input, SymInt[] weight_size, Tensor in_mean, "
      "Tensor in_var, Tensor? in_weight, Tensor? in_bias, float in_eps, int[2] stride, int[2] padding, "
      "int[2] dilation, int groups, bool allow_tf32, bool allow_winograd) -> "
      "(Tensor grad_weight, Tensor grad_bias)");

  // relu((input − mean) / √(var + eps) · weight + bias + residual), without the relu if that is false.
  m.def(
      "batch_norm_relu(Tensor input, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, "
      "Tensor? residual, bool relu, float eps) -> Tensor");
  // The gradient, with mean and var as functions of `input`. Where a residual was added, the sign of `output`
  // is the mask of the ReLU and grad_residual is what it lets through; else the mask is computed from `input`
  // and grad_residual is empty. The first op is the other two, one after the other: those are apart for the
  // sums (of the masked gradient, and of that times the normalised input: the gradients of bias and weight)
  // to be added up over processes in between. `count` values of a channel then made the statistics.
  m.def(
      "batch_norm_relu_backward(Tensor grad, Tensor input, Tensor mean, Tensor var, Tensor? weight, "
      "Tensor? bias, Tensor? output, bool relu, float eps) -> "
      "(Tensor grad_input, Tensor grad_residual, Tensor grad_weight, Tensor grad_bias)");
  m.def(
      "batch_norm_relu_backward_sums(Tensor grad, Tensor input, Tensor mean, Tensor var, Tensor? weight, "
      "Tensor? bias, Tensor? output, bool relu, float eps) -> (Tensor sum, Tensor sum_normal)");
  m.def(
      "batch_norm_relu_backward_apply(Tensor grad, Tensor input, Tensor mean, Tensor var, Tensor? weight, "
      "Tensor? bias, Tensor? output, Tensor sum, Tensor sum_normal, SymInt count, bool relu, float eps) -> "
      "(Tensor grad_input, Tensor grad_residual)");

  // relu(conv2d(input, weight, bias) + residual): the fused layer in evaluation, with the norm in weight and
  // bias.
  m.def(
      "conv2d_residual_relu(Tensor input, Tensor weight, Tensor? bias, Tensor? residual, bool relu, "
      "int[2] stride, int[2] padding, int[2] dilation, int groups, bool allow_tf32, bool allow_winograd) -> "
      "Tensor");
}
