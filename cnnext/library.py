"""Find, or build, and load the native library; remember why when that fails.

The library beside this file is loaded if it was built from the C++ sources that are here. If it was not, or
is not there, one is built: in place where the source tree was built before, else in the cache.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import torch

from cnnext import _build

INSTALLED = _build.PACKAGE / "_cpu.so"


def cache_folder() -> Path:
    """Where cnnext keeps what it made for this machine: ``$CNNEXT_CACHE``, else ``~/.cache/cnnext``."""
    if os.environ.get("CNNEXT_CACHE"):
        return Path(os.environ["CNNEXT_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cnnext"


def _load_cpu() -> str | None:
    """Load the CPU library, building it first if need be; the reason if it cannot be had."""
    if os.environ.get("CNNEXT_CPU") == "0":
        return "switched off by CNNEXT_CPU=0"
    try:
        torch.ops.load_library(_up_to_date_library())
    except (OSError, RuntimeError) as error:
        return str(error)
    return None


def _up_to_date_library() -> Path:
    stamp = _build.cpu_stamp() if (_build.SOURCE_ROOT / "csrc").is_dir() else None
    installed_stamp = _build.read_stamp(INSTALLED) if INSTALLED.is_file() else None
    if INSTALLED.is_file() and stamp in (None, installed_stamp):
        return INSTALLED
    library, work = _where_to_build(stamp)
    if library != INSTALLED and library.is_file():
        return library
    try:
        return _build_once(library, work, stamp)
    except (OSError, RuntimeError) as error:
        if not _build.same_schemas(installed_stamp, stamp):
            raise
        warnings.warn(
            f"cnnext loads a CPU library older than its C++ sources: a new one could not be built: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return INSTALLED


def _where_to_build(stamp: str | None) -> tuple[Path, Path]:
    """(library, folder for the objects): the source tree's own where it was built before, so that few objects
    need compiling after an edit; else the cache's."""
    in_place = _build.SOURCE_ROOT / "build/cpu"
    writable = os.access(in_place, os.W_OK) and os.access(_build.PACKAGE, os.W_OK)
    if INSTALLED.is_file() and (in_place / "build.ninja").is_file() and writable:
        return INSTALLED, in_place
    cache = cache_folder()
    return cache / f"cpu-{(stamp or '').rpartition(':')[2]}" / "_cpu.so", cache / "cpu-objects"


def _build_once(library: Path, work: Path, stamp: str | None) -> Path:
    """Build, unless the same sources failed with the same compiler before: no one waits twice for it."""
    tools = _build.find_tools(Path(torch.__file__).resolve().parent.parent)
    attempt = f"{stamp} {tools.compiler} {tools.torch_include}\n"
    failed = work / "failed"
    if failed.is_file() and (text := failed.read_text()).startswith(attempt):
        raise _build.BuildError(f"{text.removeprefix(attempt)}\n(to try again, delete {failed})")
    print(
        f"cnnext: building the CPU library from its C++ sources, as {library} ...",
        file=sys.stderr,
        flush=True,
    )
    try:
        return _build.build_cpu(library, work, tools)
    except _build.BuildError as error:
        failed.write_text(f"{attempt}{error}")
        raise
    except OSError as error:
        raise _build.BuildError(
            f"{work.parent} cannot be written ({error}): set CNNEXT_CACHE to a folder that can be"
        ) from error


cpu_unavailable: str | None = _load_cpu()
"""Why the CPU library is not loaded; None if it is."""
