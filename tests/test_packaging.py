"""What the library needs and shows, what a wheel holds, and that one library serves every torch and ISA."""

import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch
from installation import BUILDING, CALL_TWICE, ROOT, Installation, elf_dynamic, leave_only_corr2d

from cnnext import _build, library

SMOKE = ROOT / "tests/smoke.py"
OTHER_TORCH = "2.13.0"


@pytest.fixture(params=[_build.CPU, _build.CUDA], ids=lambda kind: kind.name)
def kind(request):
    """A native library that is loaded here."""
    if request.param is _build.CUDA and (reason := library.cuda_unavailable):
        pytest.skip(f"the CUDA library is not here: {reason}")
    return request.param


@pytest.fixture
def built(kind):
    """The library's file."""
    return library.loaded(kind)


@pytest.fixture
def installation(tmp_path):
    return Installation(tmp_path)


@pytest.fixture
def with_library(installation):
    for file in filter(None, map(library.loaded, (_build.CPU, _build.CUDA))):
        shutil.copy(file, installation.package)
    return installation


def test_needs_only_the_c_functions_of_torch(built):
    needs, _, _ = elf_dynamic(built)
    assert any(name.startswith("aoti_torch_") for name in needs)
    of_torch = re.compile(r"N[rVKRO]*(2at|3c10|4c10d|6caffe2|5torch)\d")  # a mangled name inside namespace at, c10, …
    assert [name for name in needs if name.startswith("_Z") and of_torch.search(name)] == []


def test_offers_only_the_functions_that_python_calls(kind, built):
    offers = elf_dynamic(built)[1]
    if kind is _build.CPU:
        assert offers == {"cnnext_isa"}
    else:  # the choosers of configs
        assert {name for name in offers if not name.startswith("cnnext_")} == set() != offers


def test_is_linked_to_nothing_but_torch_and_the_compilers_own(kind, built):
    names = {name.split(".so")[0] for name in elf_dynamic(built)[2]}
    assert "libtorch_cpu" in names
    of_the_cuda_runtime = {"libtorch_cuda", "libdl", "libpthread", "librt"} if kind is _build.CUDA else set()
    assert names - of_the_cuda_runtime <= {
        "libtorch_cpu",
        "libstdc++",
        "libgcc_s",
        "libm",
        "libc",
        "ld-linux-x86-64",
        "ld-linux-aarch64",
    }


def test_carries_the_stamp_of_its_sources(kind, built):
    assert kind.read_stamp(built) == kind.stamp()


def test_import_adds_little_to_that_of_torch(with_library):
    code = "import time, torch; start = time.process_time(); import cnnext; print(time.process_time() - start)"
    seconds = min(float(with_library.run("-c", code)[0]) for _ in range(3))
    assert seconds < 0.3


def test_import_of_an_up_to_date_library_says_nothing(with_library):
    output, errors = with_library.run("-W", "error", "-c", CALL_TWICE, PATH="")
    assert (output, errors) == ("[]\n[]\n", "")
    assert not with_library.cache.exists()


@pytest.mark.parametrize("with_compiler", [True, False])
def test_a_wheel_has_the_sources_and_with_a_compiler_the_library(tmp_path, with_compiler):
    tree = tmp_path / "tree"
    for folder in ("cnnext", "csrc"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / file, tree)
    leave_only_corr2d(tree / "csrc")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    path = os.environ["PATH"] if with_compiler else ""
    environment = {**os.environ, "PATH": path, "TORCH_CUDA_ARCH_LIST": "8.0"}
    subprocess.run([*pip, "-w", tmp_path, tree], env=environment, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names >= {
        "cnnext/csrc/library.cpp",
        "cnnext/csrc/cpu/corr2d_kernel.h",
        "cnnext/csrc/cuda/device/launch.cuh",
        "cnnext/csrc/common/math.h",
    }
    assert ("cnnext/_cpu.so" in names) == with_compiler
    assert ("cnnext/_cuda.so" in names) == (with_compiler and _build.CUDA.unwanted() is None)


@pytest.mark.parametrize("isa", ["generic", "avx2", None])
def test_every_instruction_set_keeps_the_accuracy_rule(with_library, isa):
    output, _ = with_library.run(SMOKE, CNNEXT_ISA=isa)
    used = output.split()[-1]
    assert used == isa or isa != "generic"  # a machine without AVX2 has no more than the generic kernels


@pytest.fixture(scope="session")
def other_python(request):
    """The interpreter of an environment with another torch, kept between runs."""
    folder = request.config.cache.mkdir(f"torch-{OTHER_TORCH}")
    interpreter, made = folder / "bin/python", folder / "made"
    if not made.is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install = [
            interpreter,
            "-m",
            "pip",
            "install",
            "--quiet",
            f"torch=={OTHER_TORCH}",
            "numpy",
            "ninja",
            "tqdm",
        ]
        done = subprocess.run(install, text=True, stderr=subprocess.PIPE, check=False)
        if "No matching distribution found for torch" in done.stderr:
            pytest.skip(f"pip finds no torch {OTHER_TORCH} for this Python and machine")
        assert done.returncode == 0, done.stderr
        made.touch()
    return interpreter


@pytest.mark.slow
def test_built_with_this_torch_it_works_in_another(with_library, other_python):
    output, errors = with_library.run(SMOKE, interpreter=other_python)
    assert f"agree with torch {OTHER_TORCH}" in output and BUILDING not in errors


@pytest.mark.slow
def test_built_with_another_torch_it_works_in_this(installation, other_python):
    output, errors = installation.run(SMOKE, interpreter=other_python)
    assert f"agree with torch {OTHER_TORCH}" in output and BUILDING in errors
    output, errors = installation.run(SMOKE)
    assert f"agree with torch {torch.__version__}" in output and BUILDING not in errors
