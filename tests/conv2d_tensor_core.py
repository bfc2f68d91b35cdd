"""Calls of the emulated tensor-core convolution with a tile and a type of the test's choice."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as torch_functional
from emulator import build

from cnnext import reference
from cnnext.testing import assert_as_exact_as_torch, make_tensor
from cnnext.testing.cases import Conv2dCase

ROOT = Path(__file__).resolve().parent.parent
PASSES = ("forward", "backward_input", "backward_weight")
TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "tf32": torch.float32}
DTYPE_CODES = {"float16": 2, "bfloat16": 3, "tf32": 0}  # of Conv2dDtype


@functools.cache
def library(architecture: int) -> ctypes.CDLL:
    """Every access is traced on 8.0; 7.5 knows float16 only, and is asked for results."""
    names = ["float16", *(["bfloat16", "tf32"] if architecture >= 80 else [])]
    sources = [ROOT / "tests/conv2d_tensor_core_entry.cu"]
    sources += [ROOT / f"csrc/cuda/conv2d_tensor_core_{name}.cu" for name in names]
    flavour = "traced" if architecture >= 80 else "fast"
    return ctypes.CDLL(str(build.library("conv2d_tensor_core", sources, flavour, architecture=architecture)))


def call(function: str, name: str, *arrays: np.ndarray, architecture: int = 80) -> None:
    address = ctypes.cast(getattr(library(architecture), function), ctypes.c_void_p).value
    build.control().call(address, name, list(arrays))


def call_for_text(function: str, *arrays: np.ndarray) -> str:
    text = np.zeros(4096, np.uint8)
    call(function, "", *arrays, text)
    return text.tobytes().rstrip(b"\0").decode()


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def sizes(case: Conv2dCase) -> list[int]:
    """The fields of Conv2dShape."""
    (r, s), stride, padding, dilation = map(pair, (case.kernel, case.stride, case.padding, case.dilation))
    out = [
        (size + 2 * p - d * (taps - 1) - 1) // step + 1
        for size, p, d, taps, step in zip(case.input[2:], padding, dilation, (r, s), stride, strict=True)
    ]
    return [*case.input, case.out, r, s, *out, *stride, *padding, *dilation, case.groups]


def memory(tensor: torch.Tensor) -> np.ndarray:
    """The elements in the order in which they lie."""
    if not tensor.is_contiguous():
        tensor = tensor.permute(0, 2, 3, 1)
    tensor = tensor.detach()
    return (tensor.view(torch.int16) if tensor.element_size() == 2 else tensor).numpy()


def description(case: Conv2dCase, which: str, kind: str, channels_last: bool, weight_last: bool) -> np.ndarray:
    bias = which == "forward" and case.bias
    header = [PASSES.index(which), DTYPE_CODES[kind], channels_last, weight_last, bias]
    return np.array([*header, *sizes(case)], np.int64)


def to_tf32(tensor: torch.Tensor) -> torch.Tensor:
    """Rounded to nearest, ties away from zero, as the device does."""
    return ((tensor.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def functions(case: Conv2dCase, which: str, shapes: tuple[torch.Size, torch.Size]):
    """The definition, and torch's own, of a pass."""
    arguments = case.arguments
    geometry = (arguments["stride"], arguments["padding"], arguments["dilation"], arguments["groups"])
    if which == "forward":
        return (
            lambda a, b, c: reference.conv2d(a, b, c, **arguments),
            lambda a, b, c: torch_functional.conv2d(a, b, c, **arguments),
        )
    derivative = torch.nn.grad.conv2d_input if which == "backward_input" else torch.nn.grad.conv2d_weight

    def gradient(a, b, _):
        first, second = (shapes[0], b) if which == "backward_input" else (b, shapes[1])
        return derivative(first, second, a, *geometry)

    return gradient, gradient


def check(
    case: Conv2dCase,
    which: str,
    kind: str,
    channels_last: bool,
    tile: str = "",
    architecture: int = 80,
    weight_last: bool | None = None,
) -> torch.Tensor:
    """Run a pass, and hold its result to the accuracy rule beside torch at the same type."""
    weight_last = channels_last if weight_last is None else weight_last
    x, weight, bias = case.tensors(TYPES[kind], channels_last)
    if weight_last != channels_last:
        layout = torch.channels_last if weight_last else torch.contiguous_format
        weight = weight.contiguous(memory_format=layout)
    n, _, _, _, k, _, _, p, q, *_ = sizes(case)
    grad = make_tensor((n, k, p, q), TYPES[kind], channels_last=channels_last, seed=4)
    operands = {"forward": (x, weight), "backward_input": (grad, weight), "backward_weight": (grad, x)}[which]
    result = {"forward": grad, "backward_input": x, "backward_weight": torch.empty(weight.shape, dtype=x.dtype)}[which]
    result = torch.full_like(result, torch.nan)
    about = description(
        case, which, kind, x.is_contiguous(memory_format=torch.channels_last) and channels_last, weight_last
    )
    grad_bias = torch.full((case.out,), torch.nan, dtype=x.dtype)
    call(
        "run_tensor_core",
        tile,
        about,
        *map(memory, operands),
        memory(grad_bias if bias is None or which != "forward" else bias),
        memory(result),
        architecture=architecture,
    )
    exact, peer = functions(case, which, (x.shape, weight.shape))
    rounded = peer if kind != "tf32" else lambda a, b, c: peer(to_tf32(a), to_tf32(b), c)
    assert_as_exact_as_torch(result, exact, rounded, *operands, bias)
    if which == "backward_weight":
        assert_as_exact_as_torch(grad_bias, sum_of_pixels, sum_of_pixels, grad)
    return result


def sum_of_pixels(grad: torch.Tensor) -> torch.Tensor:
    """The gradient of the bias."""
    return grad.sum((0, 2, 3))


def loader_of(case: Conv2dCase, which: str, kind: str, channels_last: bool) -> str:
    chunk = 4 if kind == "tf32" else 8
    channels = {
        "forward": (case.input[1],),
        "backward_input": (case.out,),
        "backward_weight": (case.input[1], case.out),
    }[which]
    whole = all(count // case.groups % chunk == 0 for count in channels)
    return "vector" if channels_last and whole else "gather"


def kernels() -> list[list[str]]:
    return [line.split() for line in call_for_text("list_tensor_core_kernels").splitlines()]


def tiles(case: Conv2dCase, which: str, kind: str, channels_last: bool) -> list[str]:
    """Those that can compute it, and the plan's own choice."""
    loader = loader_of(case, which, kind, channels_last)
    return ["", *(tile for of, tile, how in kernels() if of == which and how == loader)]
