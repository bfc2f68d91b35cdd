"""Find, or build, and load the native library; remember why when that fails."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from cnnext import _build

INSTALLED = Path(__file__).resolve().parent / "_cpu.so"


def cache_folder() -> Path:
    """Where cnnext keeps what it made for this machine: ``$CNNEXT_CACHE``, else ``~/.cache/cnnext``."""
    if os.environ.get("CNNEXT_CACHE"):
        return Path(os.environ["CNNEXT_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cnnext"


def _load_cpu() -> str | None:
    """Load the CPU library, building it first if it is not there; the reason if it cannot be had."""
    if os.environ.get("CNNEXT_CPU") == "0":
        return "switched off by CNNEXT_CPU=0"
    try:
        path = INSTALLED
        if not path.is_file():
            path = cache_folder() / f"cpu-{_build.source_digest()}" / "_cpu.so"
        if not path.is_file():
            print(f"cnnext: building the CPU library once, into {path.parent} ...", file=sys.stderr)
            include = Path(torch.__file__).resolve().parent.parent
            _build.build_cpu(path, path.parent / "objects", _build.find_torch_include(include))
        torch.ops.load_library(path)
    except (OSError, RuntimeError) as error:
        return str(error)
    return None


cpu_unavailable: str | None = _load_cpu()
"""Why the CPU library is not loaded; None if it is."""
