"""`make test-gpu`: the tests of the ops on a GPU, then cases of each under compute-sanitizer's tools.

Exits non-zero where there is no GPU, or one that the CUDA library cannot run on, and says why.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from cnnext import cuda_devices, library

HERE = Path(__file__).resolve().parent
TOOLS = ("memcheck", "racecheck", "synccheck")
CASES = 3
PYTEST = [sys.executable, "-m", "pytest", "-m", "not slow", "--device", "cuda"]


def refusal():
    """Why the tests cannot run on this machine's GPU; None if they can."""
    if not torch.cuda.is_available():
        return "torch finds no GPU on this machine"
    if library.cuda_unavailable:
        return f"the CUDA library is not available: {library.cuda_unavailable}"
    return cuda_devices.refusal(torch.device("cuda", torch.cuda.current_device()))


def find_sanitizer():
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    candidates = ["compute-sanitizer", *(f"{home}/bin/compute-sanitizer" for home in (*homes, "/usr/local/cuda"))]
    return next((found for candidate in candidates if (found := shutil.which(candidate))), None)


def main(arguments):
    reason = refusal()
    if reason is not None:
        sys.exit(f"make test-gpu: {reason}")
    done = subprocess.run([*PYTEST, *arguments, HERE], check=False)
    if done.returncode:
        sys.exit(done.returncode)
    sanitizer = find_sanitizer()
    if sanitizer is None:
        sys.exit("make test-gpu: the tests pass, but compute-sanitizer was not found: it comes with the CUDA toolkit")
    # Without torch's cache every tensor is an allocation of its own, and an access beside one is seen.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    for tool in TOOLS:
        command = [sanitizer, "--tool", tool, "--error-exitcode", "99", *PYTEST, "-k", "cuda", "--cases", str(CASES)]
        print(f"make test-gpu: {tool}", flush=True)
        done = subprocess.run([*command, *arguments, HERE], env=environment, check=False)
        if done.returncode:
            sys.exit(f"make test-gpu: compute-sanitizer's {tool} ended with {done.returncode}")


if __name__ == "__main__":
    main(sys.argv[1:])
