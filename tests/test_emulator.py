"""The CUDA emulator reports every fault where it is, and passes sound kernels in any order of the warps."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from emulator import build
from emulator.cases import FAULTS, aligned, marked_line, reset_emulator, run_case, zeros  # noqa: F401

RAMP = np.arange(64, dtype=np.float32)
X = np.arange(68, dtype=np.float32)

# case: (kind, block, thread) of the report, and what the sound twin computes in its last array.
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
TWO_SIDED = [
    "named_barrier",
    "read_after_write",
    "write_after_read",
    "warp_exchange",
    "between_blocks",
    "copy_used_early",
]
READS_X = [
    "input_written",
    "global_bounds",
    "misaligned_vector",
    "misaligned_plain",
    "copy_used_early",
    "copy_never_waited",
]


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


def test_what_did_not_compile_is_not_tried_again(tmp_path):
    source = tmp_path / "broken.cu"
    source.write_text("#error first\n")
    with pytest.raises(RuntimeError, match="#error first"):
        build.library("broken", [source])
    source.unlink()
    with pytest.raises(RuntimeError, match="#error first"):
        build.library("broken", [source])


def test_exception_thrown_in_a_kernel_reaches_the_caller(emulator):
    with pytest.raises(IndexError, match="thrown by thread 5"):
        run_case()("throwing", zeros(64))


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
    environment = {
        **build.sanitizer_environment(),
        "PYTHONPATH": str(Path(__file__).parent),
        "PYTHONMALLOC": "malloc",
    }
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
    warnings = ["-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra,-Wno-unknown-pragmas"]
    target = ["-std=c++17", f"-arch=sm_{architecture}", "-cubin", "-o", str(tmp_path / "cases.cubin")]
    command = ["nvcc", *target, *warnings, f"-I{build.ROOT / 'csrc'}", str(FAULTS / "cases.cu")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
