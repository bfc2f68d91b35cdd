"""Cases of every op's tests over its CUDA kernels under AddressSanitizer and UBSan, and with every access checked.

Each flavour of the emulator's build has a process of its own: a sanitizer must be there before Python is.
"""

import os
import subprocess
import sys
from pathlib import Path

import emulated
import pytest
from emulator import build

HERE = Path(__file__).parent
CASES = 3


@pytest.mark.slow
@pytest.mark.parametrize("flavour", ["sanitized", "traced"])
def test_cases_of_every_op_run_without_a_report(flavour):
    if emulated.unavailable():
        pytest.skip(emulated.unavailable())
    environment = build.sanitizer_environment() if flavour == "sanitized" else dict(os.environ)
    # Files of one op: whole networks at their full size (test_chapters.py) would take this build many minutes.
    tests = [file for file in sorted(HERE.glob("test_*.py")) if '\nOP = "' in file.read_text()]
    # -s: a sanitizer ends the process, and pytest would keep what it said. Its stacks are all Python's.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-s",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow",
        "-k",
        flavour,
    ]
    done = subprocess.run(
        [*command, "--cases", str(CASES), *map(str, tests)],
        env={**environment, "CNNEXT_EMULATED": flavour, "UBSAN_OPTIONS": "print_stacktrace=0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-5000:]
    print(done.stdout.splitlines()[-1])
