"""The CUDA library: the kernels of csrc/cuda, for the ops whose schemas the CPU library defines."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import architectures
from .library import ABI_FLAGS, EXPORTS, SOURCE_ROOT, Library, Object, compile_rule, find_text, quote
from .tools import BuildError, Tools, find_tools

NVCC_FLAGS = [
    "-std=c++17",
    "-O3",
    "--expt-relaxed-constexpr",
    "-DUSE_CUDA",  # torch's header declares the function that returns the current stream only with it
    "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra",
]
HOST_FLAGS = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden"]
LINK_FLAGS = ["-shared", "-Xlinker=-z,defs", "-Xlinker=--version-script=exports.map"]


@dataclass(frozen=True)
class CudaTools(Tools):
    """What the CUDA library needs besides."""

    nvcc: str
    toolkit: str  # its version, "13.0"
    architectures: tuple[str, ...]  # what it is built for, "7.5" or "8.0+PTX"


class CudaLibrary(Library):
    """``cnnext/_cuda.so``."""

    name, title, folders = "cuda", "CUDA library", ("common", "torch", "cuda")

    def unwanted(self, torch_root: Path | None = None) -> str | None:
        """Return why the library is not built here, None if it is.

        Whether there is a GPU is not asked: what is built here may be used elsewhere.

        Raises:
            BuildError: ``CNNEXT_CUDA=1`` asks for it, but something is missing.
        """
        wish = os.environ.get("CNNEXT_CUDA", "")
        if wish not in ("", "0", "1"):
            raise BuildError(f"CNNEXT_CUDA={wish!r} must be 0 (do not build or load it) or 1 (insist on it)")
        if wish == "0":
            return "switched off by CNNEXT_CUDA=0"
        try:
            self.find_tools(torch_root)
        except BuildError as error:
            if wish == "1":
                raise BuildError(f"CNNEXT_CUDA=1 asks for the CUDA library, but {error}") from error
            return str(error)
        return None

    def flags(self) -> str:
        """See :meth:`Library.flags`; the architectures are told apart by :func:`read_code`."""
        return repr((ABI_FLAGS, NVCC_FLAGS, LINK_FLAGS, EXPORTS, platform.machine()))

    def find_tools(self, torch_root: Path | None = None) -> CudaTools:
        """See :meth:`Library.find_tools`."""
        tools = find_tools(torch_root)
        wanted = torch_cuda_version(tools.torch_include)
        if wanted is None:
            raise BuildError("torch is built without CUDA")
        nvcc = find_nvcc()
        if nvcc is None:
            raise BuildError(
                "nvcc was not found (looked in $CUDA_HOME/bin, $CUDA_PATH/bin, on the path and in /usr/local/cuda/bin): "
                f"install the CUDA toolkit {wanted}"
            )
        toolkit = nvcc_version(nvcc)
        if toolkit.split(".")[0] != wanted.split(".")[0]:
            raise BuildError(
                f"{nvcc} is of CUDA {toolkit}, but torch of CUDA {wanted}: install a toolkit of version "
                f"{wanted.split('.')[0]} and set CUDA_HOME to it"
            )
        return CudaTools(
            tools.compiler, tools.ninja, tools.torch_include, nvcc, toolkit, tuple(wanted_architectures(nvcc))
        )

    def rules(self, tools: Tools) -> list[str]:
        """See :meth:`Library.rules`."""
        assert isinstance(tools, CudaTools)
        host, *host_flags = shlex.split(tools.compiler)
        nvcc = [shlex.quote(tools.nvcc), f"-ccbin={shlex.quote(host)}", *(f"-Xcompiler={flag}" for flag in host_flags)]
        code = architectures.nvcc_flags(list(tools.architectures))
        flags = f"{' '.join([*NVCC_FLAGS, *ABI_FLAGS, *code])} -isystem {quote(tools.torch_include)}"
        libraries = f"-L{quote(tools.torch_include.parent / 'lib')} -ltorch_cuda -ltorch_cpu"
        return [
            *compile_rule("compile", f"$cxx {' '.join(HOST_FLAGS)}"),
            *compile_rule("compile_cuda", f"{' '.join(nvcc)} {flags}"),
            "rule link",
            f"  command = {' '.join(nvcc)} {' '.join(LINK_FLAGS)} $in {libraries} -o $out.tmp && mv $out.tmp $out",
            "  description = link $out",
        ]

    def objects(self) -> list[Object]:
        """See :meth:`Library.objects`."""
        files = sorted((SOURCE_ROOT / "csrc/cuda").glob("*.cu"))
        return [Object(file, f"{file.stem}.o", "compile_cuda") for file in files]

    def texts(self, tools: Tools) -> list[str]:
        """See :meth:`Library.texts`."""
        assert isinstance(tools, CudaTools)
        return [self.stamp(), f"cnnext-cuda-code:{tools.toolkit}:{';'.join(tools.architectures)}:"]


CUDA = CudaLibrary()


@dataclass(frozen=True)
class Code:
    """What a CUDA library holds: the toolkit's version, ``"13.0"``, and architectures, ``"8.0"`` or ``"8.0+PTX"``."""

    toolkit: str
    architectures: list[str]


def read_code(path: Path) -> Code | None:
    """Read from a built CUDA library, without loading it, for what it was built; None if it does not tell."""
    text = find_text(path, r"cnnext-cuda-code:[0-9.]+:[0-9.;+PTXaf]*:")
    if text is None:
        return None
    _, toolkit, items, _ = text.split(":")
    return Code(toolkit, items.split(";"))


def torch_cuda_version(torch_include: Path) -> str | None:
    """The CUDA version torch was built with, from the text of ``torch/version.py``; None without CUDA."""
    found = re.search(
        r"^cuda\b.*=\s*['\"]([0-9.]+)['\"]", (torch_include.parent / "version.py").read_text(), re.MULTILINE
    )
    return found.group(1) if found else None


def find_nvcc() -> str | None:
    """The CUDA compiler: that of ``$CUDA_HOME`` or ``$CUDA_PATH`` where set, else the path's, else the usual place's."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    candidates = [*(f"{home}/bin/nvcc" for home in homes), "nvcc", "/usr/local/cuda/bin/nvcc"]
    return next((found for candidate in candidates if (found := shutil.which(candidate))), None)


def nvcc_version(nvcc: str) -> str:
    """Return ``"13.0"``.

    Raises:
        BuildError: nvcc does not run, or says no version.
    """
    found = re.search(r"release ([0-9.]+)", _output(nvcc, "--version"))
    if found is None:
        raise BuildError(f"`{nvcc} --version` tells no version")
    return found.group(1)


def wanted_architectures(nvcc: str) -> list[str]:
    """``TORCH_CUDA_ARCH_LIST``, else those of the GPUs in sight, else the default.

    Raises:
        BuildError: the variable holds something else.
    """
    text = os.environ.get("TORCH_CUDA_ARCH_LIST")
    devices = [] if text else devices_in_sight()
    if not text:
        numbers = re.findall(r"compute_(\d+)(\d)\b", _output(nvcc, "--list-gpu-arch") if devices else "")
        text = architectures.for_devices(devices, sorted((int(major), int(minor)) for major, minor in numbers))
    try:
        return architectures.parse(text)
    except ValueError as error:
        raise BuildError(str(error)) from error


def devices_in_sight() -> list[tuple[int, int]]:
    """Compute capabilities of this machine's GPUs, as the driver's own program tells them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        text = _output(program, "--query-gpu=compute_cap", "--format=csv,noheader")
    except BuildError:
        return []
    return [(int(major), int(minor)) for major, minor in re.findall(r"^(\d+)\.(\d+)$", text, re.MULTILINE)]


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"{' '.join(command)} failed: {error}") from error
