"""The CPU library: the schemas of the ops, and their kernels once for each instruction set."""

from __future__ import annotations

import platform
from pathlib import Path

from .library import ABI_FLAGS, EXPORTS, SOURCE_ROOT, Library, Object, compile_rule, quote
from .tools import Tools, find_tools

COMMON_FLAGS = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Werror=return-type",
]
KERNEL_FLAGS = [
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
    "-Wno-maybe-uninitialized",
]
ISA_FLAGS = {
    "generic": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512dq",
        "-mavx512vl",
        "-mfma",
        "-mf16c",
        "-mprefer-vector-width=512",
    ],
}
# A missing symbol is an error now and not when the library is loaded.
LINK_FLAGS = ["-Wl,-z,defs", "-Wl,--version-script=exports.map"]


class CpuLibrary(Library):
    """``cnnext/_cpu.so``."""

    name, title, folders = "cpu", "CPU library", ("common", "torch", "cpu")

    def flags(self) -> str:
        """See :meth:`Library.flags`."""
        return repr((ABI_FLAGS, COMMON_FLAGS, KERNEL_FLAGS, ISA_FLAGS, LINK_FLAGS, EXPORTS, platform.machine()))

    def find_tools(self, torch_root: Path | None = None) -> Tools:
        """See :meth:`Library.find_tools`."""
        return find_tools(torch_root)

    def rules(self, tools: Tools) -> list[str]:
        """See :meth:`Library.rules`."""
        flags = f"{' '.join([*COMMON_FLAGS, *ABI_FLAGS])} -isystem {quote(tools.torch_include)}"
        libraries = f"-L{quote(tools.torch_include.parent / 'lib')} -ltorch_cpu"
        return [
            *compile_rule("compile", f"$cxx {flags}"),
            "rule link",
            f"  command = $cxx -shared $in {' '.join(LINK_FLAGS)} {libraries} -o $out.tmp && mv $out.tmp $out",
            "  description = link $out",
        ]

    def objects(self) -> list[Object]:
        """See :meth:`Library.objects`.

        The order matters: where two instruction sets emit the same inline function, the linker keeps the first,
        and only the generic one runs everywhere.
        """
        csrc = SOURCE_ROOT / "csrc"
        plain = [csrc / "library.cpp", csrc / "cpu/simd/isa.cpp"]
        plain += [file for file in sorted((csrc / "cpu").glob("*.cpp")) if not file.stem.endswith("_kernel")]
        kernels = sorted((csrc / "cpu").glob("*_kernel.cpp"))
        isas = ISA_FLAGS if platform.machine().lower() in ("x86_64", "amd64") else {"generic": []}
        objects = [Object(file, f"{file.stem}.o", "compile") for file in plain]
        for isa, flags in isas.items():
            extra = (*KERNEL_FLAGS, f"-DCNNEXT_ISA={isa}", *flags)
            objects += [Object(file, f"{file.stem}.{isa}.o", "compile", extra) for file in kernels]
        return objects


CPU = CpuLibrary()
