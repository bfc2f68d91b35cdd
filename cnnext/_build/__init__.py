"""Compile the C++ and CUDA sources into shared libraries, with ninja and the compilers at hand.

Used three times: by ``setup.py`` when the package is installed, by :mod:`cnnext.library` at the first import where that
was not possible (no torch in the build environment, or no compiler then), and by ``make build``, which runs
``__main__.py``. It must therefore import without torch and without the rest of the package. The libraries need no more
of torch than the C functions of its stable ABI, so the torch they were built beside and the torch they are loaded into
may differ.

``CPU`` and ``CUDA`` are the two :class:`Library` objects; each knows its tools, its sources and its stamp.
"""

from .cpu import CPU
from .cuda import CUDA, Code, read_code
from .library import ABI_FLAGS, PACKAGE, SOURCE_ROOT, Library, locked
from .tools import BuildError, Tools, find_compiler, find_torch_include

__all__ = [
    "ABI_FLAGS",
    "CPU",
    "CUDA",
    "PACKAGE",
    "SOURCE_ROOT",
    "BuildError",
    "Code",
    "Library",
    "Tools",
    "find_compiler",
    "find_torch_include",
    "locked",
    "read_code",
]
