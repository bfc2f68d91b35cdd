"""pytest plug-in: `--emulator-counters` prints what each emulated kernel did, over the whole run.

Works under pytest-xdist too: the workers' counters are added up.
"""

from __future__ import annotations

import sys
from collections import Counter

import pytest

Kernels = dict[str, dict[str, int]]

COLUMNS = (
    ("blocks", "blocks"),
    ("threads", "threads"),
    ("mma", "mma"),
    ("mma_flops", "mma FLOP"),
    ("declared_flops", "FLOP"),
    ("declared_bytes", "bytes"),
)
# Measured over ideal, both summed over the sampled blocks.
RATIOS = (
    ("global_load_sectors", "global_load_ideal_sectors", "load sectors"),
    ("global_store_sectors", "global_store_ideal_sectors", "store sectors"),
    ("shared_load_wavefronts", "shared_load_ideal_wavefronts", "shared loads"),
    ("shared_store_wavefronts", "shared_store_ideal_wavefronts", "shared stores"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--emulator-counters", action="store_true", help="print the counters of every emulated kernel")


def _own_counters() -> Kernels:
    emulator = sys.modules.get("_emulator")
    return emulator.counters() if emulator is not None else {}


def add(total: Kernels, more: Kernels) -> None:
    """Add the counters `more` to `total`, kernel by kernel."""
    for kernel, values in more.items():
        total[kernel] = dict(Counter(total.get(kernel, {})) + Counter(values))


def table(kernels: Kernels) -> list[str]:
    """One line for each kernel; a ratio is measured over ideal, `-` where nothing was measured."""
    rows = [["kernel", *(title for _, title in COLUMNS), *(title for *_, title in RATIOS)]]
    for kernel, values in sorted(kernels.items()):
        row = [kernel, *(str(values.get(name, 0)) for name, _ in COLUMNS)]
        for measured, ideal, _ in RATIOS:
            row.append(f"{values.get(measured, 0) / values[ideal]:.2f}" if values.get(ideal) else "-")
        rows.append(row)
    first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    return ["  ".join([row[0].ljust(first), *map(str.rjust, row[1:], widths)]) for row in rows]


class _FromWorkers:
    """Collects what xdist workers hand over when they end."""

    def __init__(self) -> None:
        self.kernels: Kernels = {}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object, error: object) -> None:
        add(self.kernels, getattr(node, "workeroutput", {}).get("emulator_counters", {}))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_FromWorkers(), "emulator-counters-of-workers")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["emulator_counters"] = _own_counters()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--emulator-counters"):
        return
    kernels = dict(config.pluginmanager.get_plugin("emulator-counters-of-workers").kernels)
    add(kernels, _own_counters())
    terminalreporter.section("emulated kernels")
    for line in table(kernels) if kernels else ["no kernel ran"]:
        terminalreporter.write_line(line)
