"""The convolution kernels with the configs that they may run with, and how a config is chosen without measuring.

The cost of an implicit GEMM is counted, not timed: waves of tiles over the multiprocessors, each tile as long as its
products and the reading of its operands take. Hints: (gemm_m, gemm_n, gemm_k, number of GEMMs side by side, 1 if
operands are read value by value else 0, how much of gemm_k a step can take).
"""

from __future__ import annotations

from typing import Any

import triton

from cnnext.triton.conv2d_backward_input_kernel import conv2d_backward_input_implicit_gemm_kernel
from cnnext.triton.conv2d_backward_weight_kernel import conv2d_backward_weight_implicit_gemm_kernel
from cnnext.triton.conv2d_depthwise_kernel import (
    conv2d_backward_input_depthwise_kernel,
    conv2d_backward_weight_depthwise_kernel,
    conv2d_forward_depthwise_kernel,
)
from cnnext.triton.conv2d_forward_kernel import conv2d_forward_implicit_gemm_kernel
from cnnext.triton.launch import Hints, Kernel, block
from cnnext.triton.target import Target

ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "tf32": 4, "float64": 8}
MOST_KEPT = 72
"""Sums, and values of operands that are read one by one in a step, that a thread has room for."""
OPERAND_READ = 48
"""What one value of an operand costs in products: with it, tiles as wide as they are high come out best."""


def _gemm(block_m: int, block_n: int, block_k: int, warps: int, stages: int) -> triton.Config:
    return triton.Config(
        {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k}, num_warps=warps, num_stages=stages
    )


GEMM_CONFIGS = (
    _gemm(128, 256, 64, 8, 3),
    _gemm(128, 128, 64, 8, 3),
    _gemm(128, 128, 32, 8, 3),
    _gemm(128, 64, 32, 4, 4),
    _gemm(64, 128, 32, 4, 4),
    _gemm(128, 64, 32, 8, 3),
    _gemm(64, 128, 32, 8, 3),
    _gemm(64, 64, 64, 4, 3),
    _gemm(64, 64, 32, 4, 3),
    _gemm(128, 32, 32, 4, 4),
    _gemm(64, 32, 32, 4, 3),
    _gemm(64, 16, 32, 4, 3),
    _gemm(32, 32, 32, 4, 3),
    _gemm(64, 64, 16, 4, 3),
    _gemm(64, 32, 16, 4, 3),
    _gemm(32, 32, 16, 4, 1),  # of two with the same tile the first is taken without measuring: this one never spills
    _gemm(32, 32, 16, 4, 3),
)


def gemm_fits(config: triton.Config, on: Target, kind: str, hints: Hints) -> bool:
    """Whether shared memory holds the tiles of all stages, and registers what a thread has to keep.

    On the tensor cores that is its share of the sums; of operands that are read value by value, as 16-bit values are
    in NCHW, also their addresses and the values on their way. wgmma and tcgen05 work on 64 rows at least. Where
    products are made one by one, rows of the operands lie in registers too: only small, shallow tiles do not spill.
    """
    m, n, k = (config.kwargs[f"BLOCK_{axis}"] for axis in "MNK")
    threads = 32 * config.num_warps
    if config.num_stages * (m + n) * k * ITEMSIZE[kind] > on.shared_bytes:
        return False
    if on.capability == 0:
        return k == 16 or kind != "float32"
    if kind in ("float16", "bfloat16", "tf32") and on.tensor_cores:
        if k == 16 or (on.sums_lie_apart and m < 64) or (hints[4] and m * n + (m + n) * k > MOST_KEPT * threads):
            return False
        return m * n <= threads * (128 if on.sums_lie_apart and kind != "tf32" else 64)
    most = 32 * 32 if kind == "float64" or hints[4] else 64 * 64
    return k == 16 and m * n <= most


def gemm_cost(config: triton.Config, on: Target, hints: Hints) -> float:
    """Time of a GEMM of these sizes, in products of one tile after another."""
    m, n, k = (config.kwargs[f"BLOCK_{axis}"] for axis in "MNK")
    gemm_m, gemm_n, gemm_k, count, *_ = hints
    tiles = triton.cdiv(gemm_m, m) * triton.cdiv(gemm_n, n) * count
    waves = max(tiles / on.processors, 1.0)
    return waves * triton.cdiv(gemm_k, k) * k * (m * n + OPERAND_READ * (m + n))


def gemm_interpreted(kind: str, hints: Hints) -> dict[str, int]:
    """Blocks for the interpreter, as deep in float32 as those of a GPU, for sums of more would round otherwise."""
    gemm_m, gemm_n, *_, step = hints
    n, k = block(gemm_n, 512, least=16), block(step, 16 if kind == "float32" else 256, least=16)
    return {"BLOCK_M": block(gemm_m, 2**18 // max(n, k), least=16), "BLOCK_N": n, "BLOCK_K": k}


def _gemm_kernel(function: Any) -> Kernel:
    return Kernel(function, GEMM_CONFIGS, gemm_fits, gemm_cost, gemm_interpreted)


FORWARD = _gemm_kernel(conv2d_forward_implicit_gemm_kernel)
BACKWARD_INPUT = _gemm_kernel(conv2d_backward_input_implicit_gemm_kernel)
BACKWARD_WEIGHT = _gemm_kernel(conv2d_backward_weight_implicit_gemm_kernel)


def _depthwise(block_m: int, block_n: int) -> triton.Config:
    return triton.Config({"BLOCK_M": block_m, "BLOCK_N": block_n}, num_warps=4)


DEPTHWISE_CONFIGS = (_depthwise(512, 1), _depthwise(128, 4), _depthwise(32, 32), _depthwise(16, 64))


def depthwise_cost(config: triton.Config, on: Target, hints: Hints) -> float:
    """Least for the tile that lies as the memory does. Hints: (channels, 1 if they are the fastest else 0, pixels)."""
    channels, last, _ = hints
    wanted = min(channels, 64) if last else 1
    return abs(config.kwargs["BLOCK_N"] - wanted)


def depthwise_interpreted(kind: str, hints: Hints) -> dict[str, int]:
    """Blocks for the interpreter."""
    channels, _, pixels = hints
    n = block(channels, 64)
    return {"BLOCK_M": block(pixels, 2**17 // n), "BLOCK_N": n}


def _depthwise_kernel(function: Any) -> Kernel:
    return Kernel(function, DEPTHWISE_CONFIGS, cost=depthwise_cost, interpreted=depthwise_interpreted)


FORWARD_DEPTHWISE = _depthwise_kernel(conv2d_forward_depthwise_kernel)
BACKWARD_INPUT_DEPTHWISE = _depthwise_kernel(conv2d_backward_input_depthwise_kernel)
BACKWARD_WEIGHT_DEPTHWISE = _depthwise_kernel(conv2d_backward_weight_depthwise_kernel)
