"""Every kernel in every form it is compiled in was launched by a test of this run; runs last (tests/conftest.py)."""

from pathlib import Path

import emulated
import pytest
from emulator import coverage

HERE = Path(__file__).parent


def why_partial(config):
    """Why this run says nothing of what the tests reach; None if it is all of them but the slow ones."""
    if hasattr(config, "workerinput"):
        return "every worker runs a part of the tests"
    if any("::" in argument for argument in config.args) or config.stash[emulated.COLLECTED] < set(
        HERE.glob("test_*.py")
    ):
        return "not all test files are run"
    return "tests were deselected" if config.stash[emulated.DESELECTED] else None


def test_every_kernel_was_run(request):
    reason = emulated.unavailable() or why_partial(request.config)
    if reason is not None:
        pytest.skip(reason)
    missing = coverage.not_launched(emulated.loaded(), emulated.KERNELS)
    assert not missing, "no test runs\n" + "\n".join(missing)
