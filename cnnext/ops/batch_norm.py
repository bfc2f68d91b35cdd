"""batch_norm: normalise every channel over the batch, or by its running statistics."""

from __future__ import annotations

from typing import Any

import torch

from cnnext.backends import TORCH, choose
from cnnext.ops.arguments import is_channels_last, memory_format, new_empty, require_same_device, require_tensor
from cnnext.registration import OpSpec, declare

PARAMETERS = ("running_mean", "running_var", "weight", "bias")
USUAL = frozenset((torch.Tensor, torch.nn.Parameter))
"""Types of nearly all tensors: what is of another is looked at more closely, at twice the cost."""


def batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Batch normalisation.

    ``output = (input − mean) / √(var + eps) · weight + bias`` for each channel. In training, mean and biased
    variance are those of ``input`` over all dimensions but the second, and the running statistics change:
    ``running ← (1 − momentum) · running + momentum · batch``, with the unbiased variance. Otherwise mean and
    variance are the running statistics.

    Args:
        input: shape (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W); float32, float64, float16, bfloat16.
        running_mean, running_var: shape (C,), both or neither; needed without training.
        weight, bias: shape (C,).
        training: whether to use, and learn, the statistics of the batch.
        momentum: share of the batch in the new running statistics.
        eps: added to the variance; positive in training, else non-negative.

    The parameters and running statistics are of ``input``'s dtype, or all float32 where that has 16 bits.

    Returns:
        Shape, dtype and layout of ``input``.

    Raises:
        TypeError: an argument is of the wrong Python type.
        ValueError: training on a single value per channel, a wrong ``eps``, or only one running statistic.
        RuntimeError: the shapes do not fit, dtypes or devices differ, a running statistic requires a
            gradient, or there are no running statistics without training.

    Statistics are one-pass block moments merged in float64, the same bits for any number of threads. An empty
    input leaves the running statistics alone. Differentiable any number of times; in training the gradient
    includes the dependence of the statistics on ``input``.
    Equivalent: ``torch.nn.functional.batch_norm`` with the same arguments.
    Source: Ioffe and Szegedy, "Batch Normalization" (2015); "Dive into Deep Learning", section 8.5.
    """
    _check_arguments(input, running_mean, running_var, weight, bias, training, momentum, eps)
    tensors, others = (running_mean, running_var, weight, bias), (training, momentum, eps)
    backend = choose("batch_norm", input, batch_norm, tensors, others)
    if backend is TORCH:
        return torch.nn.functional.batch_norm(input, *tensors, *others)
    image = input if input.dim() == 4 else _as_image(input)
    statistics = (None, None) if training else (running_mean, running_var)
    output, mean, var = backend.ops.batch_norm(image, weight, bias, *statistics, training, eps)
    if training and running_mean is not None and (numel := input.numel()) > 0:
        count = numel // input.size(1)
        backend.ops.batch_norm_update_(running_mean, running_var, mean, var, count, momentum)
    return output if image is input else output.view(input.shape)


def _check_arguments(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any,
    bias: Any,
    training: Any,
    momentum: Any,
    eps: Any,
) -> None:
    require_tensor(input, "input")
    if not isinstance(training, bool):
        raise TypeError(f"argument `training` must be a bool, but got {training!r}")
    if type(momentum) is not float or type(eps) is not float:
        for name, value in (("momentum", momentum), ("eps", eps)):
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise TypeError(f"argument `{name}` must be a float, but got {value!r}")
    channels = _channels(input)
    shape, device = (channels,), input.device
    for i, tensor in enumerate((running_mean, running_var, weight, bias)):
        if tensor is None:
            continue
        if type(tensor) not in USUAL or tensor.shape != shape or tensor.device != device:
            _check_channel_values(tensor, PARAMETERS[i], input, channels)
        if i < 2 and tensor.requires_grad:
            raise RuntimeError(f"`{PARAMETERS[i]}` must not require a gradient: batch_norm has none for it")
    if (running_mean is None) != (running_var is None):
        raise ValueError("`running_mean` and `running_var` must either both be None or neither be None")
    if not training and running_mean is None:
        raise RuntimeError("`running_mean` and `running_var` must be given when training=False, but got None")
    if training and input.numel() == channels:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.shape}")
    if eps < 0 or (training and eps == 0):
        raise ValueError(f"batch_norm eps must be positive in training, else non-negative, but got {eps}")


def _check_channel_values(tensor: Any, name: str, input: torch.Tensor, channels: int) -> None:
    require_tensor(tensor, name)
    require_same_device("input", input, name, tensor)
    if tensor.dim() != 1 or tensor.size(0) != channels:
        raise RuntimeError(
            f"expected `{name}` of shape [{channels}], one value per channel of `input`, but got shape "
            f"{list(tensor.shape)}"
        )


def _channels(input: torch.Tensor) -> int:
    if input.dim() < 2:
        raise RuntimeError(f"expected `input` with at least 2 dimensions, (N, C, …), but got shape {list(input.shape)}")
    return input.size(1)


def _as_image(input: torch.Tensor) -> torch.Tensor:
    """View (N, C, …) as (N, C, H, W), channels_last where torch takes the input for channels_last."""
    if input.dim() < 4:
        return input.reshape(*input.shape, *[1] * (4 - input.dim()))
    return input.flatten(2, -2)


def statistics_dtype(input: torch.Tensor) -> torch.dtype:
    """The dtype of the statistics and of the parameters' gradients."""
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def _check_op(input: torch.Tensor, **parameters: torch.Tensor | None) -> None:
    if input.dim() != 4:
        raise RuntimeError(f"expected `input` with 4 dimensions, but got shape {list(input.shape)}")
    for name, tensor in parameters.items():
        if tensor is not None and tensor.shape != (input.shape[1],):
            raise RuntimeError(f"expected `{name}` of shape [{input.shape[1]}], but got shape {list(tensor.shape)}")


def _fake(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    training: bool,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    _check_op(input, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    channels = input.shape[1] if training else 0
    mean, var = (input.new_empty((channels,), dtype=statistics_dtype(input)) for _ in range(2))
    return new_empty(input, input.shape), mean, var


def _backward_fake(
    grad: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor | None,
    mean: torch.Tensor,
    var: torch.Tensor,
    training: bool,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    _check_op(input, weight=weight, mean=mean, var=var)
    if grad.shape != input.shape:
        raise RuntimeError(f"expected `grad` of shape {list(input.shape)}, but got shape {list(grad.shape)}")
    weights = [input.new_empty((input.shape[1],), dtype=statistics_dtype(input)) for _ in range(2)]
    return new_empty(input, input.shape), weights[0], weights[1]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    input, weight, bias, running_mean, running_var, ctx.training, ctx.eps = inputs
    _, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    ctx.set_materialize_grads(False)
    statistics = (mean, var) if ctx.training else (running_mean, running_var)
    ctx.save_for_backward(input, weight, *statistics)
    ctx.dtypes = None if weight is None else weight.dtype, None if bias is None else bias.dtype


def _backward(ops: Any, ctx: Any, grad: torch.Tensor | None, *_: Any) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 7
    input, weight, mean, var = ctx.saved_tensors
    if not (ctx.training or any(ctx.needs_input_grad[1:3])):  # a linear function of input: one pass, and no sums
        grad = grad.contiguous(memory_format=memory_format(is_channels_last(input)))
        return (ops.batch_norm(grad, weight, None, torch.zeros_like(mean), var, False, ctx.eps)[0], *(None,) * 6)
    if ctx.training and not ctx.needs_input_grad[0]:
        norm = (mean, var, None, None, None, False, ctx.eps)
        grad_bias, grad_weight = ops.batch_norm_relu_backward_sums(grad, input, *norm)
        gradients = None, grad_weight, grad_bias
    else:
        gradients = ops.batch_norm_backward(grad, input, weight, mean, var, ctx.training, ctx.eps)
    parameters = [
        values.to(dtype) if wanted else None
        for values, dtype, wanted in zip(gradients[1:], ctx.dtypes, ctx.needs_input_grad[1:3], strict=True)
    ]
    return (gradients[0] if ctx.needs_input_grad[0] else None, *parameters, None, None, None, None)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.training, ctx.eps = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _double_backward(
    ops: Any,
    ctx: Any,
    v: torch.Tensor | None,
    a: torch.Tensor | None,
    b: torch.Tensor | None,
) -> tuple[Any, ...]:
    """Gradients of ⟨v, grad_input⟩ + ⟨a, grad_weight⟩ + ⟨b, grad_bias⟩ in grad, input and weight.

    Let r = 1/√(var + eps), x̂ = (input − mean)·r, m(·) the mean over a channel, and P(u) = u − m(u) − x̂·m(u·x̂)
    the projection for which r·P is the derivative of x̂ by input. The backward op gives grad_input =
    weight·r·P(grad), grad_weight = Σ grad·x̂ and grad_bias = Σ grad. P is symmetric, so that

        d grad   = weight·r·P(v) + a·x̂ + b
        d weight = Σ v·r·P(grad)
        d input  = a·r·P(grad) − weight·r²·[ x̂·m(v·P(grad)) + P(v·m(grad·x̂) + grad·m(v·x̂)) ]

    Without training the statistics are constants: P is the identity and the bracket vanishes. In training
    they are taken from input anew, so that these plain tensor operations can be differentiated further.
    """
    grad, input, weight, mean, var = ctx.saved_tensors
    dtype = statistics_dtype(input)
    g, x = grad.to(dtype), input.to(dtype)
    dims = (0, 2, 3)

    def channel(values: torch.Tensor) -> torch.Tensor:
        return values.to(dtype).view(1, -1, 1, 1)

    def m(values: torch.Tensor) -> torch.Tensor:
        return values.mean(dims, keepdim=True)

    if ctx.training:
        center = m(x)
        r = (m((x - center).square()) + ctx.eps).rsqrt()
    else:
        center, r = channel(mean), (channel(var) + ctx.eps).rsqrt()
    normal = (x - center) * r
    w = torch.ones_like(r) if weight is None else channel(weight)

    def project(u: torch.Tensor) -> torch.Tensor:
        return u - m(u) - normal * m(u * normal) if ctx.training else u

    d_grad, d_input, d_weight = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(w)
    if v is not None:
        v = v.to(dtype)
        d_grad = d_grad + w * r * project(v)
        d_weight = d_weight + (v * r * project(g)).sum(dims, keepdim=True)
        if ctx.training:
            crossed = project(v * m(g * normal) + g * m(v * normal))
            d_input = d_input - w * r.square() * (normal * m(v * project(g)) + crossed)
    if a is not None:
        d_grad = d_grad + channel(a) * normal
        d_input = d_input + channel(a) * r * project(g)
    if b is not None:
        d_grad = d_grad + channel(b)
    wants_grad, wants_input, wants_weight = ctx.needs_input_grad[:3]
    return (
        d_grad.to(grad.dtype) if wants_grad else None,
        d_input.to(input.dtype) if wants_input else None,
        d_weight.view(-1).to(weight.dtype) if wants_weight else None,
        *(None,) * 4,
    )


declare(
    OpSpec(name="batch_norm", fake=_fake, save=_save, backward=_backward),
    OpSpec(name="batch_norm_backward", fake=_backward_fake, save=_save_backward, backward=_double_backward),
    OpSpec(name="batch_norm_update_", fake=lambda *_: None),
)
