"""Compile the C++ sources into one shared library, with ninja and the compiler at hand.

Used three times: by ``setup.py`` when the package is installed, by :mod:`cnnext.library` at the first
import where that was not possible (no torch in the build environment, or no compiler then), and by ``make
build``, which runs this file. It must therefore import without torch and without the rest of the package.
The library needs no more of torch than the C functions of its stable ABI, so the torch it was built beside
and the torch it is loaded into may differ.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
# The sources lie inside an installed package and beside the package in the source tree.
SOURCE_ROOT = PACKAGE if (PACKAGE / "csrc/library.cpp").is_file() else PACKAGE.parent
CPU_FOLDERS = ("common", "torch", "cpu")

ABI_FLAGS = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY"]
COMMON_FLAGS = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Werror=return-type",
]
KERNEL_FLAGS = [
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
    "-Wno-maybe-uninitialized",
]
ISA_FLAGS = {
    "generic": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512dq",
        "-mavx512vl",
        "-mfma",
        "-mf16c",
        "-mprefer-vector-width=512",
    ],
}
# A missing symbol is an error now and not when the library is loaded. Only the C functions that Python calls
# are visible from outside; -fvisibility=hidden alone leaves libstdc++'s templates visible.
LINK_FLAGS = ["-Wl,-z,defs", "-Wl,--version-script=exports.map"]
EXPORTS = "{ global: cnnext_*; local: *; };\n"


class BuildError(RuntimeError):
    """The library could not be built; the text says why and what to do."""


@dataclass(frozen=True)
class Tools:
    """What a build needs; made by :func:`find_tools`."""

    compiler: str
    ninja: str
    torch_include: Path


def find_tools(torch_root: Path | None = None) -> Tools:
    """Find the compiler, ninja and torch's headers.

    Args:
        torch_root: the folder that holds the ``torch`` package, where that is known.

    Raises:
        BuildError: one of them is not there.
    """
    torch_include = find_torch_include(torch_root)
    if torch_include is None:
        raise BuildError("torch's headers were not found: pip install 'torch>=2.10'")
    ninja = find_ninja()
    if ninja is None:
        raise BuildError("ninja was not found: pip install ninja")
    if not (SOURCE_ROOT / "csrc/library.cpp").is_file():
        raise BuildError(f"the C++ sources are not at {SOURCE_ROOT / 'csrc'}: install cnnext again")
    return Tools(find_compiler(), ninja, torch_include)


def find_torch_include(torch_root: Path | None = None) -> Path | None:
    """Folder of torch's headers, looked up without importing torch (an isolated build cannot import it)."""
    roots = [str(torch_root)] if torch_root else []
    roots += [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path]
    roots += [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    for root in filter(None, roots):
        include = Path(root) / "torch/include"
        if (include / "torch/csrc/stable/library.h").is_file():
            return include
    return None


def find_compiler() -> str:
    """Return the C++ compiler's command: ``$CXX`` (with arguments, if it has any), else c++, g++ or clang++.

    Raises:
        BuildError: there is none.
    """
    wanted = os.environ.get("CXX")
    if wanted:
        if shutil.which(shlex.split(wanted)[0]) is None:
            raise BuildError(f"CXX={wanted!r} is not a program: set CXX to a C++ compiler or unset it")
        return wanted
    found = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    if found is None:
        raise BuildError("no C++ compiler was found (looked for $CXX, c++, g++, clang++): install g++")
    return found


def find_ninja() -> str | None:
    """Return ninja's path: beside this interpreter (the PyPI package puts it there), else on the path."""
    try:
        import ninja  # type: ignore[import-not-found, unused-ignore]

        beside = Path(ninja.BIN_DIR) / "ninja"
        if beside.is_file():
            return str(beside)
    except ImportError:
        pass
    return shutil.which("ninja")


def cpu_objects() -> list[tuple[Path, str, list[str]]]:
    """(source, object name, extra flags) of everything in the ``_cpu`` library.

    The order matters: where two instruction sets emit the same inline function, the linker keeps the first,
    and only the generic one runs everywhere.
    """
    csrc = SOURCE_ROOT / "csrc"
    plain = [csrc / "library.cpp", csrc / "cpu/simd/isa.cpp"]
    plain += [file for file in sorted((csrc / "cpu").glob("*.cpp")) if not file.stem.endswith("_kernel")]
    kernels = sorted((csrc / "cpu").glob("*_kernel.cpp"))
    isas = ISA_FLAGS if platform.machine().lower() in ("x86_64", "amd64") else {"generic": []}
    objects: list[tuple[Path, str, list[str]]] = [(file, f"{file.stem}.o", []) for file in plain]
    for isa, flags in isas.items():
        extra = [*KERNEL_FLAGS, f"-DCNNEXT_ISA={isa}", *flags]
        objects += [(file, f"{file.stem}.{isa}.o", extra) for file in kernels]
    return objects


def cpu_stamp() -> str:
    """Return the text that is built into the CPU library: ``cnnext-cpu:<schemas>:<everything>``.

    The first hash is over the op schemas, the second over all sources and flags. A library whose stamp
    differs was built from other sources.
    """
    flags = (ABI_FLAGS, COMMON_FLAGS, KERNEL_FLAGS, ISA_FLAGS, LINK_FLAGS, EXPORTS, platform.machine())
    csrc = SOURCE_ROOT / "csrc"
    schemas = (csrc / "library.cpp").read_bytes()
    everything = hashlib.sha256(repr(flags).encode() + schemas)
    files = (file for folder in CPU_FOLDERS for file in (csrc / folder).rglob("[!.]*") if file.suffix in (".h", ".cpp"))
    for file in sorted(files):
        content = file.read_bytes()
        everything.update(f"{file.relative_to(csrc)} {len(content)} ".encode() + content)
    return f"cnnext-cpu:{hashlib.sha256(schemas).hexdigest()[:16]}:{everything.hexdigest()[:16]}"


def read_stamp(library: Path) -> str | None:
    """Return the stamp of a built library, without loading it; None if it has none."""
    found = re.search(rb"cnnext-cpu:[0-9a-f]{16}:[0-9a-f]{16}", library.read_bytes())
    return found.group().decode() if found else None


def same_schemas(stamp: str | None, other: str | None) -> bool:
    """Whether the libraries of two stamps have the same ops."""
    return stamp is not None and other is not None and stamp.split(":")[1] == other.split(":")[1]


def _write_if_changed(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)


def _write_ninja(folder: Path, output: Path, tools: Tools) -> None:
    def escape(path: Path) -> str:
        return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

    def quote(path: Path) -> str:
        return shlex.quote(str(path)).replace("$", "$$")

    _write_if_changed(folder / "exports.map", EXPORTS)
    _write_if_changed(
        folder / "stamp.cpp",
        f'extern "C" {{\n[[gnu::used]] const char cnnext_stamp[] = "{cpu_stamp()}";\n}}\n',
    )
    objects = [*cpu_objects(), (folder / "stamp.cpp", "stamp.o", [])]
    lines = [
        "ninja_required_version = 1.5",
        f"cxx = {tools.compiler}",
        f"flags = {' '.join([*COMMON_FLAGS, *ABI_FLAGS])} -isystem {quote(tools.torch_include)}",
        f"libraries = -L{quote(tools.torch_include.parent / 'lib')} -ltorch_cpu",
        "rule compile",
        "  command = $cxx -MMD -MF $out.d $flags $extra -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = compile $out",
        "rule link",
        f"  command = $cxx -shared $in {' '.join(LINK_FLAGS)} $libraries -o $out.tmp && mv $out.tmp $out",
        "  description = link $out",
    ]
    for source, name, extra in objects:
        lines += [f"build {name}: compile {escape(source)}", f"  extra = {' '.join(extra)}"]
    lines += [f"build {escape(output)}: link {' '.join(name for _, name, _ in objects)} | exports.map", ""]
    _write_if_changed(folder / "build.ninja", "\n".join(lines))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a lock on ``folder`` (made if it is not there): others wait, and a dead process frees it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build_cpu(output: Path, work: Path, tools: Tools | None = None, show: bool = False) -> Path:
    """Build the CPU library at ``output``; what is up to date is not built again.

    Args:
        output: the library's path. It appears whole, by a rename.
        work: folder for the objects, kept for the next time. ``MAX_JOBS`` is the number of compilers at once.
        tools: from :func:`find_tools`, which is called if they are not given.
        show: let the compiler's output through as it comes.

    Raises:
        BuildError: a tool is missing, or the compiler complained.
    """
    tools = tools or find_tools()
    output, work = output.resolve(), work.resolve()
    jobs = os.environ.get("MAX_JOBS")
    command = [tools.ninja, "-C", str(work), *(["-j", jobs] if jobs else [])]
    with locked(work):
        output.parent.mkdir(parents=True, exist_ok=True)
        _write_ninja(work, output, tools)
        done = subprocess.run(
            command,
            stdout=None if show else subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed\n{(done.stdout or '')[-4000:]}".rstrip())
    return output


if __name__ == "__main__":
    try:
        build_cpu(PACKAGE / "_cpu.so", SOURCE_ROOT / "build/cpu", show=True)
    except BuildError as error:
        sys.exit(f"cnnext: {error}")
