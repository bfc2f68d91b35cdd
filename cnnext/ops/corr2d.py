"""corr2d: two-dimensional cross-correlation of one image with one kernel."""

from __future__ import annotations

from typing import Any

import torch

from cnnext.backends import TORCH, choose
from cnnext.ops.arguments import require_same_device, require_tensor
from cnnext.registration import OpSpec, declare


def corr2d(input: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Two-dimensional cross-correlation.

    ``output[p, q] = Σ_{r,s} input[p + r, q + s] · kernel[r, s]``

    Args:
        input: shape (H, W); float32, float64, float16 or bfloat16.
        kernel: shape (R, S) with 1 ≤ R ≤ H and 1 ≤ S ≤ W, of the same dtype and device.

    Returns:
        Shape (H − R + 1, W − S + 1), same dtype.

    Raises:
        TypeError: an argument is not a tensor.
        RuntimeError: the shapes do not fit, or dtypes or devices differ.

    16-bit inputs are accumulated in float32. Differentiable any number of times.
    Equivalent: ``torch.nn.functional.conv2d(input[None, None], kernel[None, None])[0, 0]``.
    Source: "Dive into Deep Learning", section 7.2.
    """
    require_tensor(input, "input")
    require_tensor(kernel, "kernel")
    require_same_device("input", input, "kernel", kernel)
    backend = choose("corr2d", input, corr2d, (kernel,))
    if backend is TORCH:
        _output_shape(input, kernel)
        return torch.nn.functional.conv2d(input[None, None], kernel[None, None])[0, 0]
    return backend.ops.corr2d(input, kernel)


def _output_shape(input: torch.Tensor, kernel: torch.Tensor) -> tuple[int, int]:
    for name, tensor in (("input", input), ("kernel", kernel)):
        if tensor.dim() != 2:
            raise RuntimeError(f"expected `{name}` with 2 dimensions, but got shape {list(tensor.shape)}")
    (h, w), (r, s) = input.shape, kernel.shape
    if not (1 <= r <= h and 1 <= s <= w):
        raise RuntimeError(
            f"expected `kernel` of shape [{r}, {s}] to have at least one tap "
            f"and to fit into `input` of shape [{h}, {w}]"
        )
    return h - r + 1, w - s + 1


def _flops(input_shape: Any, kernel_shape: Any, *_: Any, **__: Any) -> int:
    (h, w), (r, s) = input_shape, kernel_shape
    return 2 * (h - r + 1) * (w - s + 1) * r * s


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ops: Any, ctx: Any, grad: torch.Tensor) -> tuple[Any, Any]:
    input, kernel = ctx.saved_tensors
    wants_input, wants_kernel = ctx.needs_input_grad
    return (
        ops.corr2d_backward_input(grad, kernel) if wants_input else None,
        ops.corr2d_backward_kernel(grad, input) if wants_kernel else None,
    )


def _backward_input_backward(ops: Any, ctx: Any, grad: torch.Tensor) -> tuple[Any, Any]:
    grad_output, kernel = ctx.saved_tensors
    wants_grad_output, wants_kernel = ctx.needs_input_grad
    return (
        ops.corr2d(grad, kernel) if wants_grad_output else None,
        ops.corr2d_backward_kernel(grad_output, grad) if wants_kernel else None,
    )


def _backward_kernel_backward(ops: Any, ctx: Any, grad: torch.Tensor) -> tuple[Any, Any]:
    grad_output, input = ctx.saved_tensors
    wants_grad_output, wants_input = ctx.needs_input_grad
    return (
        ops.corr2d(input, grad) if wants_grad_output else None,
        ops.corr2d_backward_input(grad_output, grad) if wants_input else None,
    )


declare(
    OpSpec(
        name="corr2d",
        fake=lambda input, kernel: input.new_empty(_output_shape(input, kernel)),
        save=_save_inputs,
        backward=_backward,
        flops=_flops,
    ),
    OpSpec(
        name="corr2d_backward_input",
        fake=lambda grad, kernel: grad.new_empty(
            (grad.shape[0] + kernel.shape[0] - 1, grad.shape[1] + kernel.shape[1] - 1)
        ),
        save=_save_inputs,
        backward=_backward_input_backward,
    ),
    OpSpec(
        name="corr2d_backward_kernel",
        fake=lambda grad, input: grad.new_empty(
            (input.shape[0] - grad.shape[0] + 1, input.shape[1] - grad.shape[1] + 1)
        ),
        save=_save_inputs,
        backward=_backward_kernel_backward,
    ),
)
