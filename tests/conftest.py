"""Poisoned memory, and the ``backend`` argument of a test.

Every fresh output and workspace is filled with NaN, so that a result a kernel forgot to write is seen. A test that asks
for ``backend`` runs once for each backend that is present for the op its module names as ``OP``, with it in force,
unless the test chooses its own by ``parametrize``.
"""

import os

os.environ.setdefault("CNNEXT_POISON", "1")  # read when the library is loaded, so before the imports

import pytest  # noqa: E402

import cnnext  # noqa: E402
from cnnext.testing import present_backends  # noqa: E402


def pytest_generate_tests(metafunc):
    chosen = any("backend" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "backend" in metafunc.fixturenames and hasattr(metafunc.module, "OP") and not chosen:
        metafunc.parametrize("backend", present_backends(metafunc.module.OP), indirect=True)


@pytest.fixture
def backend(request):
    with cnnext.backend(request.param):
        yield request.param
