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

import cnnext  # noqa: E402
from cnnext.testing import present_backends  # noqa: E402

# --emulator-counters; that every CUDA kernel is run; what is slow in Triton's interpreter; "auto" with its own file
pytest_plugins = ["emulator.plugin", "kernel_coverage", "interpreted", "automatic"]

FLAVOUR = os.environ.get("CNNEXT_EMULATED", "fast")  # or "traced", "sanitized": see tests/emulator/README.md
NOT_EMULATED = emulated.unavailable()


def pytest_report_header():
    how = f"not emulated, for {NOT_EMULATED}" if NOT_EMULATED else f"emulated on the CPU ({FLAVOUR})"
    return f"CUDA kernels: {how}"


def pytest_addoption(parser):
    parser.addoption("--device", choices=["cpu", "cuda"], default="cpu", help="where the tests of the ops run")
    parser.addoption("--cases", type=int, metavar="N", help="run at most N cases of each test, evenly spaced")


def pytest_configure(config):
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:  # share the cores out: threads that wait for a core of another worker's spin
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    if config.getoption("--device") != "cpu":
        torch.set_default_device(config.getoption("--device"))
    elif NOT_EMULATED is None:
        emulated.load(FLAVOUR)


@pytest.hookimpl(trylast=True)  # after -k and -m
def pytest_collection_modifyitems(config, items):
    if config.getoption("--device") != "cpu":
        _keep(config, items, [item for item in items if _is_of_an_op(item)])
    most = config.getoption("--cases")
    if most is not None:
        _keep(config, items, _spread(items, most))


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
