"""Poisoned memory, the ``backend`` argument of a test, and the CUDA emulator.

Every fresh output and workspace is filled with NaN, so that a result a kernel forgot to write is seen. A test that asks
for ``backend`` runs once for each backend that is present for the op, or all the ops, that its module names as ``OP``,
with it in force, unless the test chooses its own by ``parametrize``. Where g++ and CUDA's headers are, one of them is
``emulated``: the CUDA kernels on the CPU. Where there is no GPU, Triton's kernels run in its interpreter.

With ``--device cuda`` these tests, and no others, run over the backends that are present for CUDA tensors, and every
tensor is made there.
"""

import os

import torch

os.environ.setdefault("CNNEXT_POISON", "1")  # read when the library is loaded, so before the imports
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported, which cnnext's import brings about

import emulated  # noqa: E402
import pytest  # noqa: E402
from emulator import coverage  # noqa: E402

import cnnext  # noqa: E402
from cnnext.testing import present_backends  # noqa: E402

pytest_plugins = ["emulator.plugin", "interpreted"]  # --emulator-counters; what is slow interpreted

FLAVOUR = os.environ.get("CNNEXT_EMULATED", "fast")  # or "traced", "sanitized": see tests/emulator/README.md
NOT_EMULATED = emulated.unavailable()


def pytest_report_header():
    how = f"not emulated, for {NOT_EMULATED}" if NOT_EMULATED else f"emulated on the CPU ({FLAVOUR})"
    return f"CUDA kernels: {how}"


def pytest_addoption(parser):
    parser.addoption("--device", choices=["cpu", "cuda"], default="cpu", help="where the tests of the ops run")
    parser.addoption("--cases", type=int, metavar="N", help="run at most N cases of each test, evenly spaced")


def pytest_configure(config):
    config.stash[emulated.COLLECTED], config.stash[emulated.DESELECTED] = set(), False
    if config.getoption("--device") != "cpu":
        torch.set_default_device(config.getoption("--device"))
    elif NOT_EMULATED is None:
        emulated.load(FLAVOUR)


def pytest_itemcollected(item):
    item.config.stash[emulated.COLLECTED].add(item.path)


def pytest_deselected(items):
    if any(item.get_closest_marker("slow") is None for item in items):
        items[0].config.stash[emulated.DESELECTED] = True


@pytest.hookimpl(trylast=True)  # after -k and -m
def pytest_collection_modifyitems(config, items):
    if config.getoption("--device") != "cpu":
        _keep(config, items, [item for item in items if _is_of_an_op(item)])
    most = config.getoption("--cases")
    if most is not None:
        _keep(config, items, _spread(items, most))
    items.sort(key=lambda item: item.path.name == "test_cuda_coverage.py")  # what ran is known at the end


def _is_of_an_op(item):
    return "backend" in item.fixturenames and hasattr(item.module, "OP")


def _spread(items, most):
    by_test = {}
    for item in items:
        by_test.setdefault((item.path, item.originalname), []).append(item)
    kept = {cases[i * len(cases) // most] for cases in by_test.values() for i in range(most)}
    return [item for item in items if item in kept]


def _keep(config, items, kept):
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--emulator-counters") and emulated.loaded():
        terminalreporter.section("kernels that did not run")
        terminalreporter.write("\n".join(coverage.not_launched(emulated.loaded(), emulated.KERNELS)) + "\n")


def pytest_generate_tests(metafunc):
    chosen = any("backend" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    device = metafunc.config.getoption("--device")
    if "backend" in metafunc.fixturenames and hasattr(metafunc.module, "OP") and not chosen:
        ops = metafunc.module.OP if isinstance(metafunc.module.OP, tuple) else (metafunc.module.OP,)
        present = [present_backends(op, device) for op in ops]
        metafunc.parametrize("backend", [name for name in present[0] if all(name in p for p in present)], indirect=True)


@pytest.fixture
def backend(request):
    with cnnext.backend(request.param):
        yield request.param
