"""The CUDA emulator: every fault is reported where it is, sound kernels pass, layouts and counters are CUDA's."""

from __future__ import annotations

import ctypes
import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from emulator import build, plugin

FAULTS = Path(build.__file__).parent / "faults"


@functools.lru_cache(maxsize=None)
def run_case(flavour: str = "traced", architecture: int = 80):
    """A function (case name, arrays) that launches kernels of tests/emulator/faults."""
    library = build.library("faults", [FAULTS / "cases.cu"], flavour, architecture=architecture)
    address = ctypes.cast(ctypes.CDLL(str(library)).run_case, ctypes.c_void_p).value
    return lambda name, *arrays: build.control(flavour).call(address, name, list(arrays))


def aligned(values) -> np.ndarray:
    """A copy aligned as cudaMalloc aligns, so that sector counts are those of a GPU."""
    values = np.ascontiguousarray(values)
    room = np.zeros(values.nbytes + 256, np.uint8)
    start = -room.ctypes.data % 256
    view = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    view[...] = values
    return view


def zeros(count: int, dtype=np.float32) -> np.ndarray:
    return aligned(np.zeros(count, dtype))


def marked_line(marker: str) -> tuple[str, int]:
    """File and line of the comment `// marker` in the kernels."""
    found = [
        (file.name, number)
        for file in sorted(FAULTS.glob("*.cuh"))
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if re.search(rf"// {marker}$", line)
    ]
    assert len(found) == 1, f"{marker}: {found}"
    return found[0]


@pytest.fixture
def emulator():
    """The control module, reset to its defaults before and after."""
    control = build.control()

    def reset():
        control.set_order("forward")
        control.set_tracing(True)
        control.set_sampled_blocks(0)
        control.reset_counters()

    reset()
    yield control
    reset()


RAMP = np.arange(64, dtype=np.float32)
X = np.arange(68, dtype=np.float32)

# case: (kind, block, thread) of the report, and what the sound twin computes in its last array; the first array is X.
FAULT_CASES = {
    "barrier_not_reached": ("barrier_not_reached", 0, 0, RAMP[::-1]),
    "divergent_barrier": ("divergent_barrier", 0, 32, RAMP[::-1]),
    "named_barrier": ("shared_memory_race", 0, 0, np.tile(RAMP[31::-1], 2)),
    "collective_not_reached": ("divergent_collective", 0, 16, np.full(32, 496)),
    "divergent_collective": ("divergent_collective", 0, 1, np.arange(32) ^ 1),
    "undefined_shuffle": ("undefined_value", 0, 15, np.full(32, 5)),
    "read_after_write": ("shared_memory_race", 0, 0, RAMP[::-1]),
    "write_after_read": ("shared_memory_race", 0, 33, np.roll(RAMP, -1)),
    "warp_exchange": ("shared_memory_race", 0, 33, np.arange(64) ^ 1),
    "between_blocks": ("global_memory_race", 3, 0, [6]),
    "unwritten_shared": ("unwritten_read", 0, 7, np.ones(64)),
    "unwritten_output": ("unwritten_read", 0, 0, np.ones(64)),
    "input_written": ("input_written", 0, 0, RAMP),
    "global_bounds": ("out_of_bounds", 0, 63, [*RAMP[:63], 0]),
    "shared_bounds": ("out_of_bounds", 0, 63, np.ones(64)),
    "misaligned_vector": ("misaligned", 0, 5, np.full(64, 2)),
    "misaligned_plain": ("misaligned", 0, 5, np.ones(64)),
    "copy_used_early": ("copy_not_waited", 0, 0, RAMP),
    "copy_never_waited": ("copy_not_waited", 0, 0, RAMP),
}
# Seen without instrumentation too.
SEEN_WHEN_FAST = [
    "barrier_not_reached",
    "divergent_barrier",
    "collective_not_reached",
    "divergent_collective",
    "undefined_shuffle",
    "misaligned_vector",
    "copy_never_waited",
]
TWO_SIDED = ["named_barrier", "read_after_write", "write_after_read", "warp_exchange", "between_blocks", "copy_used_early"]
READS_X = ["input_written", "global_bounds", "misaligned_vector", "misaligned_plain", "copy_used_early", "copy_never_waited"]


def arrays_of(case: str) -> list[np.ndarray]:
    if case == "between_blocks":
        return [zeros(4), zeros(1, np.uint32), zeros(1)]
    return [aligned(X), zeros(64)] if case in READS_X else [zeros(64)]


@pytest.mark.parametrize("case", FAULT_CASES)
def test_planted_fault_is_reported_with_place_and_thread(emulator, case):
    kind, block, thread, _ = FAULT_CASES[case]
    with pytest.raises(emulator.Fault) as caught:
        run_case()(f"{case}/planted", *arrays_of(case))
    fault = caught.value
    assert (fault.kind, fault.kernel) == (kind, case)
    assert (fault.block, fault.thread) == ((block, 0, 0), (thread, 0, 0))
    assert (Path(fault.file).name, fault.line) == marked_line(f"planted: {case}")
    if case in TWO_SIDED:
        file, line = marked_line(f"other side: {case}")
        assert f"{file}:{line}" in str(fault)


@pytest.mark.parametrize("order", ["forward", "reversed", "random"])
@pytest.mark.parametrize("flavour", ["fast", "traced"])
@pytest.mark.parametrize("case", FAULT_CASES)
def test_sound_twin_passes(emulator, case, flavour, order):
    emulator.set_order(order, seed=3)
    arrays = arrays_of(case)
    run_case(flavour)(f"{case}/sound", *arrays)
    expected = np.asarray(FAULT_CASES[case][-1], np.float32)
    np.testing.assert_array_equal(arrays[-1][: len(expected)], expected)


@pytest.mark.parametrize("case", SEEN_WHEN_FAST)
def test_fault_is_reported_without_instrumentation(emulator, case):
    kind, _, thread, _ = FAULT_CASES[case]
    with pytest.raises(emulator.Fault) as caught:
        run_case("fast")(f"{case}/planted", *arrays_of(case))
    assert (caught.value.kind, caught.value.thread) == (kind, (thread, 0, 0))
    assert (Path(caught.value.file).name, caught.value.line) == marked_line(f"planted: {case}")


def test_unwritten_output_is_reported_and_reads_nan(emulator):
    y = zeros(64)
    run_case()("output_left/sound", y)
    np.testing.assert_array_equal(y, 1)
    with pytest.raises(emulator.Fault, match="never writes byte 252 of y"):
        run_case()("output_left/planted", y)
    run_case("fast")("output_left/planted", y)
    assert np.isnan(y[63]) and (y[:63] == 1).all()


def test_invalid_launch_says_why_and_with_which_config(emulator):
    with pytest.raises(emulator.Fault, match="at most 166912 bytes") as caught:
        run_case()("invalid_launch/planted", zeros(64))
    assert caught.value.kind == "invalid_launch"
    assert "block (64, 1, 1), 307200 bytes of dynamic shared memory" in str(caught.value)
    with pytest.raises(emulator.Fault, match="at most 65536 bytes"):
        run_case("fast", 75)("invalid_launch/planted", zeros(64))


def test_registered_memory_may_be_used_without_declaring_it(emulator):
    x, y = aligned(X), zeros(64)
    emulator.register_global(x.ctypes.data, x.nbytes, "the rest of x")
    try:
        run_case()("global_bounds/planted", x, y)
    finally:
        emulator.release_global(x.ctypes.data)
    np.testing.assert_array_equal(y, X[:64])


def test_tracing_can_be_switched_off(emulator):
    emulator.set_tracing(False)
    run_case()("read_after_write/planted", zeros(64))
    assert emulator.counters()["read_after_write"]["shared_load_requests"] == 0


def test_control_refuses_what_it_does_not_know(emulator):
    with pytest.raises(ValueError, match="'sideways'"):
        emulator.set_order("sideways")
    with pytest.raises(ValueError, match="-1"):
        emulator.set_sampled_blocks(-1)
    with pytest.raises(ValueError, match="'slow'"):
        build.library("faults", [], "slow")


def test_the_emulator_works_on_after_a_fault(emulator):
    for _ in range(3):
        with pytest.raises(emulator.Fault):
            run_case()("barrier_not_reached/planted", zeros(64))
        y = zeros(64)
        run_case()("barrier_not_reached/sound", y)
        np.testing.assert_array_equal(y, RAMP[::-1])


@pytest.mark.parametrize("flavour", ["fast", "traced"])
def test_order_of_warps_does_not_change_the_result(emulator, flavour):
    x = aligned(np.random.default_rng(0).standard_normal(3 * 128).astype(np.float32))

    def result(order, seed):
        emulator.set_order(order, seed)
        y, most = zeros(3 * 128), zeros(1, np.uint32)
        run_case(flavour)("any_order", x, y, most)
        return y.tobytes() + most.tobytes()

    expected = result("forward", 1)
    assert {result("reversed", 1), *(result("random", seed) for seed in range(1, 6))} == {expected}


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
    np.testing.assert_array_equal(y, [*RAMP[:32], *np.zeros(32)])
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
    "strided_copy_1": dict(
        blocks=2, threads=128, sampled_blocks=2, declared_bytes=4 * (1024 + 128),
        global_load_requests=4, global_load_sectors=16, global_load_ideal_sectors=16, global_load_bytes=512,
        global_store_requests=4, global_store_sectors=16, global_store_ideal_sectors=16, global_store_bytes=512,
    ),
    # Neighbours read 32 bytes apart: a sector for each lane.
    "strided_copy_8": dict(
        global_load_requests=4, global_load_sectors=128, global_load_ideal_sectors=16,
        global_store_requests=4, global_store_sectors=16,
    ),
    # 16 bytes a lane: 512 bytes, 16 sectors, in one request.
    "vector_copy": dict(
        global_load_requests=4, global_load_sectors=64, global_load_ideal_sectors=64, global_load_bytes=2048,
        global_store_requests=4, global_store_sectors=64, global_store_ideal_sectors=64,
    ),
    # All lanes pass once (4 sectors), the 16 even ones a second time: 4 sectors for 64 bytes.
    "diverged_loads": dict(global_load_requests=2, global_load_sectors=8, global_load_ideal_sectors=6),
    "shared_stride_1": dict(
        barriers=1, shared_store_requests=1, shared_store_wavefronts=1, shared_store_ideal_wavefronts=1,
        shared_load_requests=1, shared_load_wavefronts=1, shared_load_ideal_wavefronts=1,
    ),
    # 8 words apart: 4 banks for 32 lanes.
    "shared_stride_8": dict(
        shared_store_wavefronts=8, shared_store_ideal_wavefronts=1, shared_load_wavefronts=8,
        shared_load_ideal_wavefronts=1,
    ),
    # 2 steps of ldmatrix x4 and x2: 12 tiles whose 8 rows lie 64 bytes apart, 4 rows to a group of banks.
    "mma_f16": dict(
        mma=2, mma_flops=2 * 2 * 16 * 8 * 16, ldmatrix=4, shared_load_requests=4, shared_load_wavefronts=48,
        shared_load_ideal_wavefronts=12,
    ),
    # The 4 tiles of B have their rows side by side.
    "mma_f16_trans": dict(mma=2, ldmatrix=4, shared_load_wavefronts=8 * 4 + 4, shared_load_ideal_wavefronts=12),
}  # fmt: skip


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
    command = [sys.executable, "-m", "pytest", "-q", "-p", "emulator.plugin", "--emulator-counters", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("strided_copy_8"))
    assert row.split()[1:3] == ["2", "128"] and "8.00" in row, row


def test_plugin_adds_the_counters_of_workers():
    total = {"a": {"blocks": 1, "mma": 0}}
    plugin.add(total, {"a": {"blocks": 2, "mma": 3}, "b": {"blocks": 5}})
    assert total == {"a": {"blocks": 3, "mma": 3}, "b": {"blocks": 5}}


SANITIZED_PROGRAM = """
import ctypes, sys
from pathlib import Path
from emulator import build
library = ctypes.CDLL(sys.argv[1])
address = ctypes.cast(library.run_case, ctypes.c_void_p).value
arrays = [bytearray(int(bytes)) for bytes in sys.argv[3:]]
build.control("sanitized").call(address, sys.argv[2], arrays)
print("passed")
"""


@pytest.mark.parametrize(
    "case, array_bytes, finding",
    [
        ("global_bounds/sound", ["252", "256"], None),
        ("global_bounds/planted", ["252", "256"], "heap-buffer-overflow"),
        ("shared_bounds/planted", ["256"], "use-after-poison"),
        ("misaligned_plain/planted", ["272", "256"], "misaligned address"),
    ],
)
def test_sanitizers_find_the_fault(case, array_bytes, finding):
    library = build.library("faults", [FAULTS / "cases.cu"], "sanitized")
    build.control_path("sanitized")
    environment = {**build.sanitizer_environment(), "PYTHONPATH": str(Path(__file__).parent), "PYTHONMALLOC": "malloc"}
    command = [sys.executable, "-c", SANITIZED_PROGRAM, str(library), case, *array_bytes]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if finding is None:
        assert done.stdout == "passed\n", done.stderr
    else:
        file, line = marked_line(f"planted: {case.split('/')[0]}")
        assert done.returncode != 0 and finding in done.stderr and f"{file}:{line}" in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("architecture", [75, 80, 90])
def test_the_same_kernels_compile_for_the_device(architecture, tmp_path):
    command = ["nvcc", "-std=c++17", f"-arch=sm_{architecture}", "-cubin", "-Werror", "all-warnings", "-Xcompiler",
               "-Wall,-Wextra,-Wno-unknown-pragmas", f"-I{build.ROOT / 'csrc'}", str(FAULTS / "cases.cu"),
               "-o", str(tmp_path / "cases.cubin")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
