"""The programs and folders a build needs, and what is said where one is missing."""

from __future__ import annotations

import os
import shlex
import shutil
import site
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path


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
