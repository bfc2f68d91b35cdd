"""The CUDA emulator computes what a device computes, and counts what can be counted by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from emulator import plugin
from emulator.cases import aligned, reset_emulator, run_case, zeros  # noqa: F401

X = np.arange(68, dtype=np.float32)


def test_block_sum_and_votes(emulator):
    x = np.random.default_rng(1).integers(0, 2, 3 * 128).astype(np.float32)  # 0 or 1: every sum is exact
    y, most = zeros(3 * 128), zeros(1, np.uint32)
    run_case()("any_order", aligned(x), y, most)
    blocks = x.reshape(3, 128)
    count = blocks.sum(1)
    ballot = np.packbits(x.reshape(3, 4, 32) > 0.5, axis=-1, bitorder="little")[..., 0]
    expected = (count * count + count)[:, None, None] + ballot[:, :, None] + np.zeros((3, 4, 32))
    np.testing.assert_array_equal(y, expected.ravel().astype(np.float32))
    assert most[0] == count.max()


def test_integer_reductions_over_the_warp(emulator):
    x = np.random.default_rng(2).integers(-50, 50, 32).astype(np.int32)
    y = zeros(256, np.int32)
    run_case()("reductions", aligned(x), y)
    bits = (np.bitwise_and.reduce(x), np.bitwise_or.reduce(x), np.bitwise_xor.reduce(x))
    expected = [(x == 7).any(), True, x.sum(), x.min(), x.max(), *bits]
    np.testing.assert_array_equal(y.reshape(8, 32), np.tile(np.array(expected, np.int32)[:, None], 32))


def test_copy_fills_with_zeros_and_does_not_read_there(emulator):
    y = zeros(64)
    run_case()("copy_zero_fill", aligned(X), y)
    np.testing.assert_array_equal(y, [*X[:32], *np.zeros(32)])
    assert emulator.counters()["copy_zero_fill"]["async_copies"] == 64
    assert emulator.counters()["copy_zero_fill"]["async_copy_bytes"] == 32 * 4


def as_bits(values: torch.Tensor) -> np.ndarray:
    return aligned(values.view(torch.int16).numpy() if values.element_size() == 2 else values.numpy())


@pytest.mark.parametrize("architecture", [80, 75])
@pytest.mark.parametrize(
    "case, dtype",
    [
        ("mma_f16", torch.float16),
        ("mma_f16_trans", torch.float16),
        ("mma_k8", torch.float16),
        ("mma_k8_trans", torch.float16),
        ("mma_bf16", torch.bfloat16),
        ("mma_tf32", torch.float32),
        ("ldmatrix_trans", torch.float16),
    ],
)
def test_fragment_layouts_against_a_plain_product(emulator, case, dtype, architecture):
    generator = torch.Generator().manual_seed(0)
    # Integers of all signs, different everywhere as far as 8 bits go: the product is exact in any order.
    a = torch.randint(-100, 100, (16, 32), generator=generator).to(dtype)
    b = torch.randint(-100, 100, (32, 8), generator=generator).to(dtype)
    y = zeros(128)
    run = run_case("traced" if architecture == 80 else "fast", architecture)
    if architecture < 80 and dtype != torch.float16:
        with pytest.raises(emulator.Fault, match="__trap"):
            run(case, as_bits(a), as_bits(b), y)
        return
    run(case, as_bits(a), as_bits(b), y)
    used = 16 if case == "ldmatrix_trans" else 32
    expected = a[:, :used].double() @ b[:used].double()
    np.testing.assert_array_equal(y.reshape(16, 8), expected.numpy())


def test_tf32_rounds_as_the_device_does(emulator):
    a, b = torch.zeros(16, 32), torch.zeros(32, 8)
    # tf32 keeps 10 bits of fraction; 1 + 2^-11 is a tie and goes away from zero, just below it goes down.
    a[:3, 0] = torch.tensor([1 + 2**-11, 1 + 2**-11 - 2**-20, -(1 + 2**-11)])
    b[0, 0] = 1
    y = zeros(128)
    run_case()("mma_tf32", as_bits(a), as_bits(b), y)
    np.testing.assert_array_equal(y.reshape(16, 8)[:3, 0], [1 + 2**-10, 1, -(1 + 2**-10)])


COUNTED = {
    # 2 blocks of 2 warps; a warp reads 128 bytes, 4 sectors, and writes as many.
    "strided_copy_1": {
        "blocks": 2,
        "threads": 128,
        "sampled_blocks": 2,
        "declared_bytes": 4 * (1024 + 128),
        "global_load_requests": 4,
        "global_load_sectors": 16,
        "global_load_ideal_sectors": 16,
        "global_load_bytes": 512,
        "global_store_requests": 4,
        "global_store_sectors": 16,
        "global_store_ideal_sectors": 16,
        "global_store_bytes": 512,
    },
    # Neighbours read 32 bytes apart: a sector for each lane.
    "strided_copy_8": {
        "global_load_requests": 4,
        "global_load_sectors": 128,
        "global_load_ideal_sectors": 16,
        "global_store_requests": 4,
        "global_store_sectors": 16,
    },
    # 16 bytes a lane: 512 bytes, 16 sectors, in one request.
    "vector_copy": {
        "global_load_requests": 4,
        "global_load_sectors": 64,
        "global_load_ideal_sectors": 64,
        "global_load_bytes": 2048,
        "global_store_requests": 4,
        "global_store_sectors": 64,
        "global_store_ideal_sectors": 64,
    },
    # All lanes pass once (4 sectors), the 16 even ones a second time: 4 sectors for 64 bytes.
    "diverged_loads": {"global_load_requests": 2, "global_load_sectors": 8, "global_load_ideal_sectors": 6},
    "shared_stride_1": {
        "barriers": 1,
        "shared_store_requests": 1,
        "shared_store_wavefronts": 1,
        "shared_store_ideal_wavefronts": 1,
        "shared_load_requests": 1,
        "shared_load_wavefronts": 1,
        "shared_load_ideal_wavefronts": 1,
    },
    # 8 words apart: 4 banks for 32 lanes.
    "shared_stride_8": {
        "shared_store_wavefronts": 8,
        "shared_store_ideal_wavefronts": 1,
        "shared_load_wavefronts": 8,
        "shared_load_ideal_wavefronts": 1,
    },
    # 2 steps of ldmatrix x4 and x2: 12 tiles whose 8 rows lie 64 bytes apart, 4 rows to a group of banks.
    "mma_f16": {
        "mma": 2,
        "mma_flops": 2 * 2 * 16 * 8 * 16,
        "ldmatrix": 4,
        "shared_load_requests": 4,
        "shared_load_wavefronts": 48,
        "shared_load_ideal_wavefronts": 12,
    },
    # The 4 tiles of B have their rows side by side.
    "mma_f16_trans": {
        "mma": 2,
        "ldmatrix": 4,
        "shared_load_wavefronts": 8 * 4 + 4,
        "shared_load_ideal_wavefronts": 12,
    },
}


@pytest.mark.parametrize("case", COUNTED)
def test_counters_are_those_worked_out_by_hand(emulator, case):
    if case.startswith("mma"):
        arrays = [zeros(16 * 32, np.int16), zeros(32 * 8, np.int16), zeros(128)]
    else:
        arrays = [zeros(32)] if case.startswith("shared") else [zeros(1024), zeros(512)]
    run_case()(case, *arrays)
    counted = emulator.counters()[case]
    assert {name: counted[name] for name in COUNTED[case]} == COUNTED[case]


def test_sampled_blocks_are_spread_evenly(emulator):
    emulator.set_sampled_blocks(1)
    run_case()("strided_copy_1", zeros(1024), zeros(512))
    counted = emulator.counters()["strided_copy_1"]
    assert (counted["blocks"], counted["sampled_blocks"], counted["global_load_requests"]) == (2, 1, 2)


def test_plugin_prints_counters_of_the_run(emulator, tmp_path):
    (tmp_path / "test_one.py").write_text(
        "import numpy as np\nimport test_emulator as t\n"
        "def test_copy(): t.run_case()('strided_copy_8', t.zeros(1024), t.zeros(512))\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "emulator.plugin",
        "--emulator-counters",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("strided_copy_8"))
    assert row.split()[1:3] == ["2", "128"] and "8.00" in row, row


def test_plugin_adds_the_counters_of_workers():
    total = {"a": {"blocks": 1, "mma": 0}}
    plugin.add(total, {"a": {"blocks": 2, "mma": 3}, "b": {"blocks": 5}})
    assert total == {"a": {"blocks": 3, "mma": 3}, "b": {"blocks": 5}}
