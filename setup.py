"""Build the native library with the package, when torch's headers and a compiler are there.

When they are not, the installation goes on without it: the library is then built at the first import.
"""

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "cnnext"))
import _build  # noqa: E402  (by path: importing the package would import torch)


class BuildLibrary(build_ext):
    """One shared library that is no Python module: ``cnnext/_cpu.so``, loaded by torch."""

    def run(self) -> None:
        folder = ROOT / "cnnext" if self.editable_mode or self.inplace else Path(self.build_lib) / "cnnext"
        try:
            _build.build_cpu(folder / "_cpu.so", ROOT / "build" / "cpu", source_root=ROOT)
        except _build.BuildError as error:
            print(
                f"cnnext: the CPU library is not built now but at the first import: {error}", file=sys.stderr
            )

    def get_outputs(self) -> list:
        return []

    def get_output_mapping(self) -> dict:
        return {}


setup(ext_modules=[Extension("cnnext._cpu", sources=[])], cmdclass={"build_ext": BuildLibrary})
