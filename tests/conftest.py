"""Poisoned memory, the ``backend`` argument of a test, and the CUDA emulator.

Every fresh output and workspace is filled with NaN, so that a result a kernel forgot to write is seen. A test that asks
for ``backend`` runs once for each backend that is present for the op its module names as ``OP``, with it in force,
unless the test chooses its own by ``parametrize``. Where g++ and CUDA's headers are, one of them is ``emulated``: the
CUDA kernels on the CPU. Where there is no GPU, Triton's kernels run in its interpreter.
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

pytest_plugins = ["emulator.plugin"]  # --emulator-counters

NOT_EMULATED = emulated.unavailable()
if NOT_EMULATED is None:
    emulated.load()


def pytest_report_header():
    return f"CUDA kernels: {f'not emulated, for {NOT_EMULATED}' if NOT_EMULATED else 'emulated on the CPU'}"


def pytest_generate_tests(metafunc):
    chosen = any("backend" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "backend" in metafunc.fixturenames and hasattr(metafunc.module, "OP") and not chosen:
        metafunc.parametrize("backend", present_backends(metafunc.module.OP), indirect=True)


@pytest.fixture
def backend(request):
    with cnnext.backend(request.param):
        yield request.param
