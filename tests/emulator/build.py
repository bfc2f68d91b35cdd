"""Compile the emulator, its Python module and kernels for it, with a cache keyed by content and flags.

    library = build.library("max_pool2d", [Path("csrc/cuda/max_pool2d.cu")], flavour="traced")
    control = build.control("traced")

A library is loaded with `torch.ops.load_library` or ctypes; it shares one emulator with the control module
of the same process, whatever was compiled `fast` or `traced`. The `sanitized` flavour has an emulator of its
own and must run in a process started with `sanitizer_environment()`.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

FLAVOURS = {
    # -g1: lines, which is all that a report names, without the types, which cost a third of the compiler's time.
    # The result only; barriers, collectives, copies and the alignment of vectors are still checked.
    "fast": ["-O2", "-g1", "-fno-optimize-sibling-calls"],
    # Every access is seen. -O1 and no merging: a request of the source stays a request.
    "traced": [
        "-O1",
        "-g1",
        "-fsanitize=thread",
        "--param=tsan-instrument-func-entry-exit=0",
        "-fno-optimize-sibling-calls",
        "-fno-store-merging",
    ],
    "sanitized": [
        "-O1",
        "-g1",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
        "-fno-omit-frame-pointer",
    ],
}
# The emulator itself is compiled without hooks; it tells AddressSanitizer of its fibers and of shared memory.
CORE_FLAGS = {"fast": ["-O3", "-g1"], "sanitized": ["-O1", "-g1", "-fsanitize=address"]}

BASE_FLAGS = ["-std=c++17", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-fno-gnu-unique"]

_failures: dict[str, str] = {}
"""Of this process: what was printed, by command."""


def cache_folder() -> Path:
    """`$CNNEXT_EMULATOR_CACHE`, or build/emulator in the repository."""
    return Path(os.environ.get("CNNEXT_EMULATOR_CACHE", ROOT / "build" / "emulator"))


def _output(*command: str) -> str:
    """What a program prints, to either stream."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout


@functools.cache
def cuda_include() -> Path:
    """The folder of cuda_fp16.h: the toolkit's, or the one that comes with torch's or triton's wheels."""
    candidates = [Path(os.environ[name]) / "include" for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    if nvcc := shutil.which("nvcc"):
        for line in _output(nvcc, "--dryrun", "-E", "-x", "cu", os.devnull).splitlines():
            if line.startswith("#$ TOP="):
                candidates.append(Path(line.removeprefix("#$ TOP=")).resolve() / "include")
    for packages in sys.path:
        candidates += [
            Path(packages) / "nvidia" / "cu13" / "include",
            Path(packages) / "triton" / "backends" / "nvidia" / "include",
        ]
    for candidate in candidates:
        if all((candidate / header).is_file() for header in ("cuda_fp16.h", "cuda_bf16.h", "driver_types.h")):
            return candidate
    raise FileNotFoundError(f"no CUDA headers (cuda_fp16.h) in {', '.join(map(str, candidates))}")


@functools.cache
def _compiler() -> tuple[str, str]:
    command = os.environ.get("CXX", "g++")
    return command, _output(command, "--version").splitlines()[0]


def _digest(*parts: bytes) -> str:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "little"))
        sha.update(part)
    return sha.hexdigest()[:24]


def _run(command: list[str]) -> None:
    """Run a compiler or linker; what failed once fails again at once, for every test would try it anew."""
    text = " ".join(command)
    if text not in _failures:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return
        _failures[text] = f"{text}\n{done.stdout}{done.stderr}"
    raise RuntimeError(_failures[text])


@contextmanager
def _locked():
    """One builder at a time: test workers share the cache."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with open(cache_folder() / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _dependencies(rule: str) -> list[str]:
    """The files of a make rule as `g++ -MMD` writes it, without the system's, which go with the compiler."""
    files = rule.split(":", 1)[1].replace("\\\n", " ").split()
    return sorted({str(Path(file).resolve()) for file in files if not file.startswith("/usr/")})


def _content(files: list[str]) -> str:
    return _digest(*(Path(file).read_bytes() if Path(file).is_file() else b"" for file in files))


def _compile(source: Path, flags: list[str]) -> Path:
    """The object file of one source; made again if a file it includes, a flag or the compiler changed."""
    compiler, version = _compiler()
    name = f"{source.stem}-{_digest(str(source).encode(), repr(flags).encode(), version.encode())}"
    folder = cache_folder() / "objects"
    folder.mkdir(parents=True, exist_ok=True)
    target, record = folder / f"{name}.o", folder / f"{name}.json"
    if target.is_file() and record.is_file():
        known = json.loads(record.read_text())
        if _content(known["files"]) == known["content"]:
            return target
    print(f"emulator: compiling {source.name} ...", file=sys.stderr, flush=True)
    rule = folder / f"{name}.d"
    _run([compiler, *flags, "-MMD", "-MF", str(rule), "-x", "c++", "-c", str(source), "-o", str(target)])
    files = _dependencies(rule.read_text())
    record.write_text(json.dumps({"files": files, "content": _content(files)}))
    return target


def _link(sources: list[Path], compile_flags: list[str], link_flags: list[str], folder: str, file: str) -> Path:
    """A shared library in cache/<folder>/<digest of the objects>/<file>."""
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", "2"))) as pool:
        objects = list(pool.map(lambda source: _compile(source.resolve(), compile_flags), sources))
    digest = _digest(*(o.read_bytes() for o in objects), repr(link_flags).encode(), _compiler()[1].encode())
    target = cache_folder() / folder / digest / file
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}")
        _run([_compiler()[0], "-shared", *map(str, objects), *link_flags, "-o", str(partial)])
        partial.rename(target)
    return target


def _includes(folders: list[Path]) -> list[str]:
    return [f"-I{folder}" for folder in folders] + ["-isystem", str(cuda_include())]


def _core_flavour(flavour: str) -> str:
    if flavour not in FLAVOURS:
        raise ValueError(f"flavour must be one of {', '.join(FLAVOURS)}, not {flavour!r}")
    return "sanitized" if flavour == "sanitized" else "fast"


def _sanitizer_link_flags(flavour: str) -> list[str]:
    return ["-fsanitize=address,undefined"] if flavour == "sanitized" else []


def _core(flavour: str) -> Path:
    kind = _core_flavour(flavour)
    sources = sorted((HERE / "core").glob("*.cpp"))
    flags = [*BASE_FLAGS, "-fvisibility=hidden", *CORE_FLAGS[kind], *_includes([HERE / "include"])]
    link = ["-Wl,-soname,libcnnext_emulator.so", "-ldl", "-pthread", *_sanitizer_link_flags(kind)]
    return _link(sources, flags, link, f"core-{kind}", "libcnnext_emulator.so")


def core(flavour: str = "fast") -> Path:
    """libcnnext_emulator.so; `fast` and `traced` code share one."""
    with _locked():
        return _core(flavour)


def _link_to(core_library: Path) -> list[str]:
    return [str(core_library), f"-Wl,-rpath,{core_library.parent}"]


def library(
    name: str,
    sources: list[Path],
    flavour: str = "fast",
    *,
    architecture: int = 80,
    include: tuple[Path, ...] = (),
    flags: tuple[str, ...] = (),
    link_flags: tuple[str, ...] = (),
) -> Path:
    """Compile kernel sources (.cu or .cpp) into a shared library for the emulator.

    Args:
        name: what the file is called, lib<name>.so.
        sources: each is compiled on its own, two at a time.
        flavour: "fast", "traced" or "sanitized".
        architecture: the compute capability to emulate, 75, 80, …
        include: further include folders; csrc/ is there already.
        flags: further compiler flags, such as -D.
        link_flags: further linker flags.

    Returns:
        The path of the library; the same one as long as nothing it is made of changes.

    Raises:
        RuntimeError: the compiler's message.
        FileNotFoundError: no CUDA headers on this machine.
    """
    with _locked():
        core_library = _core(flavour)
        compile_flags = [
            *BASE_FLAGS,
            "-fvisibility=hidden",
            *FLAVOURS[flavour],
            f"-DCNNEXT_EMULATED_ARCH={10 * architecture}",
            *flags,
            *_includes([HERE / "include", ROOT / "csrc", *include]),
        ]
        link = [*_link_to(core_library), *link_flags, *_sanitizer_link_flags(flavour)]
        return _link(sources, compile_flags, link, f"{name}-{flavour}", f"lib{name}.so")


def control_path(flavour: str = "fast") -> Path:
    """The control module's file; compiled once, linked to the emulator of each flavour."""
    import pybind11

    with _locked():
        core_library = _core(flavour)
        python = ["-isystem", sysconfig.get_path("include"), "-isystem", pybind11.get_include()]
        flags = [*BASE_FLAGS, "-fvisibility=hidden", "-O1", *_includes([HERE / "include"]), *python]
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        return _link([HERE / "bindings.cpp"], flags, _link_to(core_library), "control", f"_emulator{suffix}")


@functools.cache
def _load(path: Path) -> ModuleType:
    loader = importlib.machinery.ExtensionFileLoader("_emulator", str(path))
    spec = importlib.util.spec_from_file_location("_emulator", path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules["_emulator"] = module
    return module


def control(flavour: str = "fast") -> ModuleType:
    """The module `_emulator` of this process: see bindings.cpp for its functions."""
    return _load(control_path(flavour))


def sanitizer_environment() -> dict[str, str]:
    """The environment for a Python process that loads `sanitized` libraries."""
    names = ("libasan.so", "libubsan.so")
    runtimes = [_output(_compiler()[0], f"-print-file-name={name}").strip() for name in names]
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself keeps memory until the end
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
