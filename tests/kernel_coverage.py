"""A pytest plugin: a run of all fast tests fails if it never launched some CUDA kernel in some form it is compiled in.

What was launched is known at the end, and under pytest-xdist to the main process alone, so it is the run that fails
and not a test.
"""

from __future__ import annotations

import sys
from pathlib import Path

import emulated
import pytest
from emulator import coverage

HERE = Path(__file__).parent
Launched = set[tuple[str, int]]


class KernelCoverage:
    """Collects what this process and its workers launched, and whether all the fast tests were to run."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.deselected = False
        self.libraries: set[str] = set()
        self.launched: Launched = set()
        self.missing: list[str] = []

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        self.files.add(str(item.path))

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self.deselected |= any(item.get_closest_marker("slow") is None for item in items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object, error: object) -> None:
        found = getattr(node, "workeroutput", {}).get("kernel_coverage")
        if found is not None:
            self.files.update(found["files"])
            self.deselected |= found["deselected"]
            self.libraries.update(found["libraries"])
            self.launched.update(map(tuple, found["launched"]))

    @pytest.hookimpl(trylast=True)  # after xdist has waited for its workers
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.libraries.update(map(str, emulated.loaded()))
        if "_emulator" in sys.modules:
            self.launched.update((path, offset) for path, offset, *_ in sys.modules["_emulator"].launched_functions())
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["kernel_coverage"] = {
                "files": sorted(self.files),
                "deselected": self.deselected,
                "libraries": sorted(self.libraries),
                "launched": sorted(self.launched),
            }
            return
        self.missing = coverage.not_launched(map(Path, self.libraries), emulated.KERNELS, self.launched)
        if self.missing and session.exitstatus == pytest.ExitCode.OK and self.why_partial(session.config) is None:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def why_partial(self, config: pytest.Config) -> str | None:
        """Why this run says nothing of what the tests reach; None if it is all of them but the slow ones."""
        if emulated.unavailable() is not None:
            return emulated.unavailable()
        if any("::" in argument for argument in config.args) or self.files < set(map(str, HERE.glob("test_*.py"))):
            return "not all test files were run"
        return "tests were deselected" if self.deselected else None

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        reason = self.why_partial(config)
        if self.missing and (reason is None or config.getoption("--emulator-counters")):
            because = "" if reason is None else f" ({reason})"
            terminalreporter.section(f"CUDA kernels that no test ran{because}", red=reason is None)
            terminalreporter.write("\n".join(self.missing) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(KernelCoverage(), "kernel-coverage")
