"""A run that leaves out a CUDA kernel fails, and says which."""

import sys
from pathlib import Path
from types import SimpleNamespace

import emulated
import pytest
from emulator import coverage
from kernel_coverage import HERE, KernelCoverage

pytestmark = pytest.mark.skipif(emulated.unavailable() is not None, reason=str(emulated.unavailable()))


@pytest.fixture
def library():
    emulated.load("fast")
    return emulated.library("fast")


def every_launch(library):
    return {(str(library), offset) for offset in coverage.kernels(library, coverage.kernel_names(emulated.KERNELS))}


def finished_session():
    config = SimpleNamespace(args=["tests"])
    return SimpleNamespace(config=config, exitstatus=pytest.ExitCode.OK)


def a_run(library, launches):
    """What the main process knows of a whole run by a worker that made these launches."""
    run = KernelCoverage()
    files = [str(file) for file in HERE.glob("test_*.py")]
    handed_over = {"files": files, "deselected": False, "libraries": [str(library)], "launched": list(launches)}
    run.pytest_testnodedown(SimpleNamespace(workeroutput={"kernel_coverage": handed_over}), None)
    return run


def test_what_is_not_launched_is_missing(library):
    launches = every_launch(library)
    assert coverage.not_launched([library], emulated.KERNELS, launches) == []
    left_out = min(launches)
    names = coverage.kernels(library, coverage.kernel_names(emulated.KERNELS))
    assert coverage.not_launched([library], emulated.KERNELS, launches - {left_out}) == [names[left_out[1]]]


def test_a_name_that_is_never_instantiated_is_missing(library, tmp_path):
    Path(tmp_path / "lone.cuh").write_text("template <class T> __global__ void lone_kernel(T* x) {}")
    assert coverage.not_launched([library], tmp_path, []) == ["lone_kernel (never instantiated)"]


@pytest.mark.parametrize("whole", [True, False])
def test_a_whole_run_fails_for_a_kernel_that_is_missing(library, whole, monkeypatch):
    monkeypatch.setattr(emulated, "loaded", list)
    monkeypatch.delitem(sys.modules, "_emulator")  # this process's own launches
    run, session = a_run(library, []), finished_session()
    run.deselected = not whole
    run.pytest_sessionfinish(session)
    assert run.missing
    assert (session.exitstatus == pytest.ExitCode.TESTS_FAILED) is whole


def test_a_run_of_every_kernel_passes(library):
    run, session = a_run(library, every_launch(library)), finished_session()
    run.pytest_sessionfinish(session)
    assert (run.missing, session.exitstatus) == ([], pytest.ExitCode.OK)
