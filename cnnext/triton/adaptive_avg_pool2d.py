"""adaptive_avg_pool2d in Triton: checks, outputs, launches, registration. The kernels are among avg_pool2d's."""

from __future__ import annotations

import torch
import triton

from cnnext.ops.arguments import is_channels_last
from cnnext.triton.avg_pool2d_kernel import ADAPTIVE_BACKWARD, ADAPTIVE_FORWARD
from cnnext.triton.define import define
from cnnext.triton.launch import launch
from cnnext.triton.pool2d import LONGEST_SIDE, WIDE_FROM, Ints
from cnnext.triton.tensors import check_dtype, check_pair, check_rank, check_shape, empty, strides


def _check_input(input: Ints, name: str, out: Ints) -> None:
    if len(input) != 4 or min(input) < 0 or max(input[2:]) > LONGEST_SIDE:
        raise RuntimeError(
            f"expected `{name}` with 4 dimensions, the last two at most 2^26, but got shape {list(input)}"
        )
    if min(input[2:]) == 0 and list(out) != [1, 1]:
        raise RuntimeError(f"expected `{name}` with height and width of at least 1, but got shape {list(input)}")


def _most(size: int, parts: int) -> int:
    """The most that one of ``parts`` overlapping parts has of ``size``; also for the windows that see a pixel."""
    return size // parts if size % parts == 0 else size // parts + 2


def _arguments(tensor: torch.Tensor, input: Ints, out: Ints) -> dict[str, int]:
    sizes = {"count": tensor.numel(), "channels": input[1], "height": input[2], "width": input[3]}
    return {**sizes, "out_height": out[0], "out_width": out[1]}


def _constants(last: bool, input: Ints, out: Ints) -> dict[str, bool]:
    n, c, h, w = input
    largest = max(n * c * max(h * w, out[0] * out[1]), (h + 1) * (out[0] + 1), (w + 1) * (out[1] + 1))
    return {"LAST": last, "WIDE": bool(largest >= WIDE_FROM)}


def adaptive_avg_pool2d(input: torch.Tensor, output_size: Ints) -> torch.Tensor:
    """The means of P × Q windows that cover the input evenly."""
    check_pair(output_size, "output_size", 0)
    if max(output_size) > LONGEST_SIDE:
        raise RuntimeError(f"expected `output_size` of at most 2^26, but got {list(output_size)}")
    _check_input(input.shape, "input", output_size)
    check_dtype(input, "input")
    last = is_channels_last(input)
    output = empty(input, (*input.shape[:2], *output_size), channels_last=last)
    count = output.numel()
    if count == 0:
        return output
    taps_r, taps_s = (_most(size, parts) for size, parts in zip(input.shape[2:], output_size, strict=True))
    launch(
        ADAPTIVE_FORWARD,
        output,
        lambda config: (triton.cdiv(count, config["BLOCK_M"]),),
        {
            "x_ptr": input,
            "y_ptr": output,
            **_arguments(output, input.shape, output_size),
            "taps_r": taps_r,
            "taps_s": taps_s,
            **strides("x", "nchw", input),
        },
        _constants(last, input.shape, output_size),
        hints=(taps_r * taps_s, int(last), count),
    )
    return output


def adaptive_avg_pool2d_backward(grad: torch.Tensor, input_size: Ints) -> torch.Tensor:
    """Every pixel's share of the gradients of the windows that see it; the same bits every time."""
    check_rank(grad, "grad", 4)
    out = grad.shape[2:]
    _check_input(input_size, "input_size", out)
    check_shape(grad, "grad", (*input_size[:2], *out))
    check_dtype(grad, "grad")
    last = is_channels_last(grad)
    grad_input = empty(grad, input_size, channels_last=last)
    count = grad_input.numel()
    if count == 0:
        return grad_input
    windows_p, windows_q = (_most(parts, size) for size, parts in zip(input_size[2:], out, strict=True))
    launch(
        ADAPTIVE_BACKWARD,
        grad,
        lambda config: (triton.cdiv(count, config["BLOCK"]),),
        {
            "g_ptr": grad,
            "gx_ptr": grad_input,
            **_arguments(grad_input, input_size, out),
            "windows_p": windows_p,
            "windows_q": windows_q,
            **strides("g", "ncpq", grad),
        },
        _constants(last, input_size, out),
        hints=(count,),
    )
    return grad_input


define("adaptive_avg_pool2d(Tensor input, int[2] output_size) -> Tensor", adaptive_avg_pool2d)
define("adaptive_avg_pool2d_backward(Tensor grad, SymInt[] input_size) -> Tensor", adaptive_avg_pool2d_backward)
