"""Build the native libraries with the package, when torch's headers and a compiler are there.

When they are not, the installation goes on without: a library is then built at the first import, for which the sources
are installed too. The CUDA library needs nvcc besides, and no GPU; with ``CNNEXT_CUDA=1`` the installation fails
without it.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def load_build_package():
    """Load ``cnnext/_build`` by its path, for importing ``cnnext`` would import torch."""
    folder = ROOT / "cnnext/_build"
    spec = importlib.util.spec_from_file_location(
        "cnnext_build", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class BuildLibraries(build_ext):
    """Shared libraries that are no Python modules, ``cnnext/_cpu.so`` and ``cnnext/_cuda.so``, loaded by torch."""

    def run(self) -> None:
        build = load_build_package()
        folder = ROOT if self.editable_mode or self.inplace else Path(self.build_lib)
        for library in (build.CPU, build.CUDA):
            reason = build.CUDA.unwanted() if library is build.CUDA else None
            try:
                if reason is None:
                    library.build(folder / "cnnext" / library.file, ROOT / "build" / library.name)
            except build.BuildError as error:
                if library is build.CUDA and os.environ.get("CNNEXT_CUDA") == "1":
                    raise
                reason = str(error)
            if reason is not None:
                print(f"cnnext: the {library.title} is not built now: {reason}", file=sys.stderr)

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
    cmdclass={"build_ext": BuildLibraries, "build_py": BuildPackage},
)
