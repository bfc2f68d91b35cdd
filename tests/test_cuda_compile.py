"""nvcc compiles every kernel for every architecture: no warning, and no register spilled to memory."""

import re
import subprocess

import emulated
import pytest

from cnnext import _build
from cnnext._build import architectures, cuda

ARCHITECTURES = ["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0"]
FILES = sorted(emulated.KERNELS.glob("*.cu"))
SPILL = re.compile(
    r"Function properties for (?P<kernel>\w+)\n.* (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
)


def compile_for_every_architecture(source, target):
    """What nvcc and ptxas say."""
    tools = _build.CUDA.find_tools()
    command = [tools.nvcc, *cuda.NVCC_FLAGS, "-Xcompiler=-Werror", "-Werror=all-warnings", "-Xptxas=-v"]
    command += [*_build.ABI_FLAGS, f"-isystem={tools.torch_include}", *architectures.nvcc_flags(ARCHITECTURES)]
    done = subprocess.run(
        [*command, "--threads=2", "-c", source, "-o", target], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("source", FILES, ids=lambda file: file.name)
def test_no_warning_and_no_spill_for_any_architecture(source, tmp_path):
    reason = _build.CUDA.unwanted()
    if reason is not None:
        pytest.skip(reason)
    said = compile_for_every_architecture(source, tmp_path / "object.o")
    assert "warning" not in said
    kernels = re.findall(r"Compiling entry function '(\w+)' for 'sm_(\d+)'", said)
    assert {architecture for _, architecture in kernels} <= {a.replace(".", "") for a in ARCHITECTURES}
    spills = [found.group() for found in SPILL.finditer(said) if found["stores"] != "0" or found["loads"] != "0"]
    assert len(SPILL.findall(said)) >= len(kernels) and not spills, "\n".join(spills)
