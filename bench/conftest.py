"""The layers that the files of bench/ measure, and what chooses among them.

    make bench-ops ARGS="bench/bench_conv2d.py --networks resnet18 --passes forward"

Each layer is first checked against torch's, and fails if it is not as exact; then ours and torch's take turns, which
gives the ratios; then pytest-benchmark times the fastest of ours and keeps commit, machine and both in its JSON.
"""

from __future__ import annotations

import time

import pytest
import torch

from cnnext.backends import backends
from cnnext.bench import environment, roof
from cnnext.bench.layers import Setting
from cnnext.bench.passes import PASSES, passes_of
from cnnext.bench.plan import DTYPES
from cnnext.testing.layer_groups import GROUPS
from cnnext.testing.layers import network_layers
from cnnext.testing.networks import NETWORKS


def pytest_addoption(parser):
    several = {"nargs": "+", "action": "extend"}
    names = [*NETWORKS, *GROUPS]
    parser.addoption("--networks", choices=names, help=f"whose layers, of {', '.join(names)}", **several)
    parser.addoption("--passes", choices=PASSES, help="(default: all)", **several)
    parser.addoption("--dtypes", choices=list(DTYPES), help="(default: float32)", **several)
    parser.addoption("--layer-backend", choices=backends(), help="(default: the first that runs conv2d)")
    parser.addoption("--device", choices=["cpu", "cuda"], help="(default: cuda where there is a GPU)")
    parser.addoption("--minutes", type=float, default=13.0, help="for all layers; the rest is skipped (default: 13)")
    parser.addoption("--row-seconds", type=float, default=0.3, help="for the turns of a layer (default: 0.3)")


def pytest_configure(config):
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError("bench/ needs pytest-benchmark: pip install 'cnnext[bench]'")
    config.stash[END] = time.monotonic() + 60 * config.getoption("--minutes")


END = pytest.StashKey[float]()
ROWS = pytest.StashKey[list]()


def _device(config):
    return torch.device(config.getoption("--device") or ("cuda" if torch.cuda.is_available() else "cpu"))


def pytest_generate_tests(metafunc):
    config, op = metafunc.config, metafunc.module.OP
    networks = config.getoption("--networks") or [*NETWORKS, *GROUPS]
    passes, dtypes = config.getoption("--passes") or PASSES, config.getoption("--dtypes") or ["float32"]
    gpu = _device(config).type == "cuda"
    jobs = []
    for name in networks:
        if name in GROUPS:
            cases = GROUPS[name]
        else:
            cases = network_layers(name, NETWORKS[name].gpu_batch if gpu else NETWORKS[name].batch)
        for case in cases:
            if case.op == op:
                jobs += [(name, case, which, dtype) for which in passes_of(case) if which in passes for dtype in dtypes]
    metafunc.parametrize("job", jobs, ids=[f"{case.name}, {which}, {dtype}" for _, case, which, dtype in jobs])


@pytest.fixture(scope="session")
def setting(pytestconfig):
    device = _device(pytestconfig)
    chosen = pytestconfig.getoption("--layer-backend")
    if chosen is None:
        from cnnext.backends import first

        chosen = first("conv2d", torch.empty(1, device=device)).name
    dtypes = {DTYPES[name] for name in pytestconfig.getoption("--dtypes") or ["float32"]}
    return Setting([chosen], device, ("NCHW", "NHWC"), False, roof.measure(sorted(dtypes, key=str), device))


@pytest.fixture(autouse=True)
def _in_time(request):
    if time.monotonic() > request.config.stash[END]:
        pytest.skip("no time is left of --minutes")


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["cnnext"] = environment.describe(_device(config))


@pytest.fixture
def keep_row(request):
    """Keeps a row for the summary."""
    return request.config.stash.setdefault(ROWS, []).append


def pytest_terminal_summary(terminalreporter, config):
    from cnnext.bench.summary import by_op
    from cnnext.info import table

    rows = config.stash.get(ROWS, [])
    if rows:
        lines = [["op", "pass", "dtype", "layers", "mean ratio", "worst", "best"]]
        for op, which, dtype, count, *ratios in by_op({"layers": rows}):
            lines.append([op, which, dtype, str(count), *(f"{ratio:.2f}×" for ratio in ratios)])
        terminalreporter.section("time of the fastest peer over ours")
        terminalreporter.write_line(table(lines, right=range(3, 7)))
