"""corr2d in Triton: checks, outputs, launches, registration."""

from __future__ import annotations

import torch
import triton

from cnnext.triton.corr2d_kernel import BACKWARD_KERNEL, WINDOWS
from cnnext.triton.define import define
from cnnext.triton.launch import launch
from cnnext.triton.reduce import splits_for, sum_partials
from cnnext.triton.tensors import accumulator_dtype, check_dtype, check_rank, check_same, empty

PIXELS_A_STEP = 512


def _check(first: torch.Tensor, first_name: str, second: torch.Tensor, second_name: str) -> None:
    check_rank(first, first_name, 2)
    check_rank(second, second_name, 2)
    check_same(first, first_name, second, second_name)
    check_dtype(first, first_name)


def _check_fit(input: tuple[int, int], kernel: tuple[int, int]) -> None:
    (h, w), (r, s) = input, kernel
    if not (1 <= r <= h and 1 <= s <= w):
        raise RuntimeError(
            f"expected `kernel` of shape [{r}, {s}] to have at least one tap and to fit into `input` of shape "
            f"[{h}, {w}]"
        )


def _windows(x: torch.Tensor, kernel: torch.Tensor, shape: tuple[int, int], sign: int) -> torch.Tensor:
    output = empty(x, shape)
    launch(
        WINDOWS,
        x,
        lambda config: (triton.cdiv(shape[0], config["BLOCK_P"]), triton.cdiv(shape[1], config["BLOCK_Q"])),
        {
            "x_ptr": x,
            "k_ptr": kernel,
            "y_ptr": output,
            "height": x.shape[0],
            "width": x.shape[1],
            "out_height": shape[0],
            "out_width": shape[1],
            "taps_r": kernel.shape[0],
            "taps_s": kernel.shape[1],
            "x_stride_h": x.stride(0),
            "x_stride_w": x.stride(1),
            "k_stride_r": kernel.stride(0),
            "k_stride_s": kernel.stride(1),
        },
        {"SIGN": sign},
        hints=shape,
    )
    return output


def corr2d(input: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """``output[p, q] = Σ_{r,s} input[p + r, q + s] · kernel[r, s]``; shapes (H, W) and (R, S)."""
    _check(input, "input", kernel, "kernel")
    (h, w), (r, s) = input.shape, kernel.shape
    _check_fit((h, w), (r, s))
    return _windows(input, kernel, (h - r + 1, w - s + 1), 1)


def corr2d_backward_input(grad: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """``grad_input[h, w] = Σ_{r,s} grad[h − r, w − s] · kernel[r, s]``."""
    _check(grad, "grad", kernel, "kernel")
    (p, q), (r, s) = grad.shape, kernel.shape
    _check_fit((p + r - 1, q + s - 1), (r, s))
    return _windows(grad, kernel, (p + r - 1, q + s - 1), -1)


def corr2d_backward_kernel(grad: torch.Tensor, input: torch.Tensor) -> torch.Tensor:
    """``grad_kernel[r, s] = Σ_{p,q} grad[p, q] · input[p + r, q + s]``; the same bits every time."""
    _check(grad, "grad", input, "input")
    (p, q), (h, w) = grad.shape, input.shape
    r, s = h - p + 1, w - q + 1
    _check_fit((h, w), (r, s))
    taps, pixels = r * s, p * q
    steps = triton.cdiv(pixels, PIXELS_A_STEP)
    splits = splits_for(grad, taps, steps, least_steps=2)
    partial = empty(grad, (splits, taps), accumulator_dtype(grad))
    launch(
        BACKWARD_KERNEL,
        grad,
        lambda config: (triton.cdiv(taps, config["BLOCK_T"]), splits),
        {
            "g_ptr": grad,
            "x_ptr": input,
            "partial_ptr": partial,
            "grad_width": q,
            "pixels": pixels,
            "taps": taps,
            "taps_s": s,
            "pixels_each": triton.cdiv(steps, splits) * PIXELS_A_STEP,
            "g_stride_p": grad.stride(0),
            "g_stride_q": grad.stride(1),
            "x_stride_h": input.stride(0),
            "x_stride_w": input.stride(1),
        },
        {},
        hints=(taps,),
    )
    output = empty(grad, (r, s))
    sum_partials(partial, output)
    return output


define("corr2d(Tensor input, Tensor kernel) -> Tensor", corr2d)
define("corr2d_backward_input(Tensor grad, Tensor kernel) -> Tensor", corr2d_backward_input)
define("corr2d_backward_kernel(Tensor grad, Tensor input) -> Tensor", corr2d_backward_kernel)
