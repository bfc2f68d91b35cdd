"""Find, or build, and load the native libraries; remember why when that fails.

A library beside this file is loaded if it was built from the sources that are here. If it was not, or is not there, one
is built: in place where the source tree was built before, else in the cache. The CUDA library takes minutes to build:
an import does it only where there is a GPU, or ``CNNEXT_CUDA=1`` asks for it.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from cnnext import _build

TORCH_ROOT = Path(torch.__file__).resolve().parent.parent


def cache_folder() -> Path:
    """Where cnnext keeps what it made for this machine: ``$CNNEXT_CACHE``, else ``~/.cache/cnnext``."""
    if os.environ.get("CNNEXT_CACHE"):
        return Path(os.environ["CNNEXT_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cnnext"


def installed(library: _build.Library) -> Path:
    """Where an installation has the library."""
    return _build.PACKAGE / library.file


def loaded(library: _build.Library) -> Path | None:
    """The file of the library that is loaded; None if none is."""
    files = (Path(path) for path in torch.ops.loaded_libraries)
    return next((file for file in files if file.name == library.file), None)


def _load_cpu() -> str | None:
    """Load the CPU library, building it first if need be; the reason if it cannot be had."""
    if os.environ.get("CNNEXT_CPU") == "0":
        return "switched off by CNNEXT_CPU=0"
    try:
        torch.ops.load_library(_up_to_date(_build.CPU))
    except (OSError, RuntimeError) as error:
        return str(error)
    return None


def _load_cuda() -> str | None:
    """Load the CUDA library, building it first where there is a GPU; the reason if it cannot be had."""
    if os.environ.get("CNNEXT_CUDA") == "0":
        return "switched off by CNNEXT_CUDA=0"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if cpu_unavailable is not None:
        return "it needs the CPU library, which defines the ops"
    try:
        file = _up_to_date(_build.CUDA, _no_cuda_build)
        code = _build.read_code(file)
        if code is None or code.toolkit.split(".")[0] != torch.version.cuda.split(".")[0]:
            return f"{file} is built with CUDA {code and code.toolkit}, torch with {torch.version.cuda}: build it again"
        torch.ops.load_library(file)
    except (OSError, RuntimeError) as error:
        return str(error)
    return None


def _no_cuda_build() -> str | None:
    """Why an import does not build the CUDA library; None if it does."""
    missing = _build.CUDA.unwanted(TORCH_ROOT)
    if missing is not None or os.environ.get("CNNEXT_CUDA") == "1" or torch.cuda.device_count() > 0:
        return missing
    return "it is not built from these sources, and no GPU is in sight: install cnnext again, or set CNNEXT_CUDA=1"


def _up_to_date(library: _build.Library, may_not_build: Callable[[], str | None] = lambda: None) -> Path:
    file = installed(library)
    stamp = library.stamp() if (_build.SOURCE_ROOT / "csrc").is_dir() else None
    installed_stamp = library.read_stamp(file) if file.is_file() else None
    if file.is_file() and stamp in (None, installed_stamp):
        return file
    output, work = _where_to_build(library, stamp)
    if output != file and output.is_file():
        return output
    refusal = may_not_build()
    if refusal is not None:
        raise _build.BuildError(refusal)
    try:
        return _build_once(library, output, work, stamp)
    except (OSError, RuntimeError) as error:
        if not library.same_schemas(installed_stamp, stamp):
            raise
        warnings.warn(
            f"cnnext loads a {library.title} older than its C++ sources: a new one could not be built: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return file


def _where_to_build(library: _build.Library, stamp: str | None) -> tuple[Path, Path]:
    """(library, folder for the objects): the source tree's own where it was built before, so that few objects
    need compiling after an edit; else the cache's."""
    in_place = _build.SOURCE_ROOT / "build" / library.name
    writable = os.access(in_place, os.W_OK) and os.access(_build.PACKAGE, os.W_OK)
    if installed(library).is_file() and (in_place / "build.ninja").is_file() and writable:
        return installed(library), in_place
    cache, digest = cache_folder(), (stamp or "").rpartition(":")[2]
    return cache / f"{library.name}-{digest}" / library.file, cache / f"{library.name}-objects"


def _build_once(library: _build.Library, output: Path, work: Path, stamp: str | None) -> Path:
    """Build, unless the same sources failed with the same tools before: no one waits twice for it."""
    tools = library.find_tools(TORCH_ROOT)
    attempt = f"{stamp} {tools}\n"
    failed = work / "failed"
    if failed.is_file() and (text := failed.read_text()).startswith(attempt):
        raise _build.BuildError(f"{text.removeprefix(attempt)}\n(to try again, delete {failed})")
    print(f"cnnext: building the {library.title} from its sources, as {output} ...", file=sys.stderr, flush=True)
    try:
        return library.build(output, work, tools)
    except _build.BuildError as error:
        failed.write_text(f"{attempt}{error}")
        raise
    except OSError as error:
        raise _build.BuildError(
            f"{work.parent} cannot be written ({error}): set CNNEXT_CACHE to a folder that can be"
        ) from error


cpu_unavailable: str | None = _load_cpu()
"""Why the CPU library is not loaded; None if it is."""

cuda_unavailable: str | None = _load_cuda()
"""Why the CUDA library is not loaded; None if it is."""
