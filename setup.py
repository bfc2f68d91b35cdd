"""Build the native library with the package, when torch's headers and a compiler are there.

When they are not, the installation goes on without it: the library is then built at the first import, for
which the C++ sources are installed too.
"""

import importlib.util
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def load_build_module():
    """Load ``cnnext/_build.py`` by its path, for importing the package would import torch."""
    spec = importlib.util.spec_from_file_location("cnnext_build", ROOT / "cnnext/_build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class BuildLibrary(build_ext):
    """One shared library that is no Python module: ``cnnext/_cpu.so``, loaded by torch."""

    def run(self) -> None:
        build = load_build_module()
        folder = ROOT if self.editable_mode or self.inplace else Path(self.build_lib)
        try:
            build.build_cpu(folder / "cnnext/_cpu.so", ROOT / "build/cpu")
        except build.BuildError as error:
            print(f"cnnext: the CPU library is built at the first import, not now: {error}", file=sys.stderr)

    def get_outputs(self) -> list:
        return []

    def get_output_mapping(self) -> dict:
        return {}


class BuildPackage(build_py):
    """The Python files, and beside them the C++ sources unless the package is used from its source tree."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "cnnext/csrc"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / "csrc", target)


setup(
    ext_modules=[Extension("cnnext._cpu", sources=[])],
    cmdclass={"build_ext": BuildLibrary, "build_py": BuildPackage},
)
