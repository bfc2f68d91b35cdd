"""Compile the C++ sources into one shared library, with ninja and the compiler at hand.

Used twice: by ``setup.py`` when the package is installed, and by :mod:`cnnext.library` at the first import where
that was not possible (no torch in the build environment, or no compiler then). It must therefore import without
torch and without the rest of the package. The library needs no more of torch than the C functions of its stable
ABI, so the torch it was built beside and the torch it is loaded into may differ.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE_ROOT = Path(__file__).resolve().parent.parent
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
KERNEL_FLAGS = ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
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


class BuildError(RuntimeError):
    """The library could not be built; the text says why and what to do."""


def find_torch_include(hint: Path | None = None) -> Path | None:
    """Folder of torch's headers, looked up without importing torch (an isolated build cannot import it)."""
    import sysconfig

    roots = [hint] if hint else []
    roots += [Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("platlib"))]
    roots += [Path(entry) for entry in sys.path if entry]
    for root in roots:
        include = root / "torch" / "include"
        if (include / "torch/csrc/stable/library.h").is_file():
            return include
    return None


def find_compiler() -> str | None:
    """The C++ compiler: ``$CXX``, else the first of c++, g++, clang++ on the path."""
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return next((found for name in wanted if (found := shutil.which(name))), None)


def find_ninja() -> str | None:
    """The ninja program: beside this interpreter (the PyPI package puts it there), else on the path."""
    try:
        import ninja  # type: ignore[import-not-found, unused-ignore]

        beside = Path(ninja.BIN_DIR) / "ninja"
        if beside.is_file():
            return str(beside)
    except ImportError:
        pass
    return shutil.which("ninja")


def cpu_objects(source_root: Path) -> list[tuple[Path, str, list[str]]]:
    """(source, object name, extra flags) of everything in the ``_cpu`` library.

    The order matters: where two instruction sets emit the same inline function, the linker keeps the first, and
    only the generic one runs everywhere.
    """
    csrc = source_root / "csrc"
    plain = [csrc / "library.cpp", csrc / "cpu/simd/isa.cpp"]
    plain += [file for file in sorted((csrc / "cpu").glob("*.cpp")) if not file.stem.endswith("_kernel")]
    kernels = sorted((csrc / "cpu").glob("*_kernel.cpp"))
    isas = ISA_FLAGS if platform.machine().lower() in ("x86_64", "amd64") else {"generic": []}
    objects = [(file, f"{file.stem}.o", []) for file in plain]
    for isa, flags in isas.items():
        extra = [*KERNEL_FLAGS, f"-DCNNEXT_ISA={isa}", *flags]
        objects += [(file, f"{file.stem}.{isa}.o", extra) for file in kernels]
    return objects


def write_ninja(folder: Path, output: Path, compiler: str, torch_include: Path, source_root: Path) -> None:
    """Write ``folder/build.ninja``, which makes ``output`` from the C++ sources."""

    def escape(text: object) -> str:
        return str(text).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

    flags = [*COMMON_FLAGS, *ABI_FLAGS, "-isystem", escape(torch_include)]
    lines = [
        "ninja_required_version = 1.5",
        f"cxx = {escape(compiler)}",
        f"flags = {' '.join(flags)}",
        "rule compile",
        "  command = $cxx -MMD -MF $out.d $flags $extra -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = compile $out",
        "rule link",
        f"  command = $cxx -shared $in -L{escape(torch_include.parent / 'lib')} -ltorch_cpu -o $out.tmp"
        " && mv $out.tmp $out",
        "  description = link $out",
    ]
    objects = cpu_objects(source_root)
    for source, name, extra in objects:
        lines += [f"build {name}: compile {escape(source)}", f"  extra = {' '.join(extra)}"]
    lines += [f"build {escape(output)}: link {' '.join(name for _, name, _ in objects)}", ""]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "build.ninja").write_text("\n".join(lines))


def build_cpu(
    output: Path, work: Path, torch_include: Path | None = None, source_root: Path = SOURCE_ROOT
) -> Path:
    """Build the CPU library at ``output``, with objects kept under ``work`` for the next time.

    Raises:
        BuildError: no compiler, no ninja, no torch headers, or the compiler's own complaint.
    """
    compiler, ninja = find_compiler(), find_ninja()
    torch_include = torch_include or find_torch_include()
    if compiler is None:
        raise BuildError(
            "no C++ compiler was found (looked for $CXX, c++, g++, clang++): install g++ or clang++"
        )
    if ninja is None:
        raise BuildError("ninja was not found: pip install ninja")
    if torch_include is None:
        raise BuildError("torch's headers were not found: pip install 'torch>=2.10'")
    if not (source_root / "csrc/library.cpp").is_file():
        raise BuildError(
            f"the C++ sources are not at {source_root / 'csrc'}: install cnnext from its source tree"
        )
    output, work = output.resolve(), work.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    write_ninja(work, output, compiler, torch_include, source_root.resolve())
    jobs = os.environ.get("MAX_JOBS")
    command = [ninja, "-C", str(work), *(["-j", jobs] if jobs else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed:\n{done.stdout[-6000:]}")
    return output


def source_digest(source_root: Path = SOURCE_ROOT) -> str:
    """Short hash over the C++ sources and this file: names the cached library that belongs to them."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for file in sorted((source_root / "csrc").rglob("*")):
        if file.suffix in (".h", ".cpp", ".cuh", ".cu"):
            digest.update(str(file.relative_to(source_root)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
