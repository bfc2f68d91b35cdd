"""Which kernels of a library were launched, each instantiation of a template by itself.

A library's kernels are the functions in its symbol table whose names stand behind `__global__` in the sources: for a
template, one for each dtype, config and whatever else it is instantiated with.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

GLOBAL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\((?:[^()]|\([^()]*\))*\)\s*)?(\w+)\s*\(")
SYMBOL = re.compile(r"(?P<address>[0-9a-f]+) [tTwW] (?:void )?(?:\w+::)*(?P<name>\w+)(?P<form><.*>)?\(")


def kernel_names(folder: Path) -> set[str]:
    """The names of all `__global__` functions in the sources under a folder."""
    sources = [file for file in folder.rglob("*") if file.suffix in (".cu", ".cuh")]
    return {name for file in sources for name in GLOBAL.findall(file.read_text())}


def kernels(library: Path, names: set[str]) -> dict[int, str]:
    """Offset in the library, and text such as `add_kernel<float, 4>`, of every kernel with one of these names."""
    listing = subprocess.run(["nm", "-C", "--defined-only", str(library)], capture_output=True, text=True, check=True)
    found = {}
    for symbol in map(SYMBOL.match, listing.stdout.splitlines()):
        if symbol is not None and symbol["name"] in names:
            found[int(symbol["address"], 16)] = symbol["name"] + (symbol["form"] or "")
    return found


def not_launched(libraries: Iterable[Path], folder: Path, launches: Iterable[tuple[str, int]]) -> list[str]:
    """The kernels of these libraries that are among no `launches`, be it from them or from another library.

    A launch is a library's path and the kernel's offset there. A name with `__global__` before it that no library has
    is among the kernels: a template that nobody instantiates. Without a library there are none.
    """
    libraries, names = list(libraries), kernel_names(folder)
    if not libraries:
        return []
    launched: set[str] = set()
    by_library: dict[str, set[int]] = {}
    for path, offset in launches:
        by_library.setdefault(path, set()).add(offset)
    for path, offsets in by_library.items():
        launched |= {kernel for offset, kernel in kernels(Path(path), names).items() if offset in offsets}
    every = {kernel for library in libraries for kernel in kernels(library, names).values()}
    absent = names - {kernel.split("<")[0] for kernel in every}
    return sorted((every - launched) | {f"{name} (never instantiated)" for name in absent})
