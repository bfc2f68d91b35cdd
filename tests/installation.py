"""Copies of the package as an installation has it, run in their own processes; and a reader of ELF files."""

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILDING = "building the CPU library"


# Prints what cnnext warned of at its import, and at the first two calls of an op.
CALL_TWICE = """
import warnings
with warnings.catch_warnings(record=True) as at_import:
    warnings.simplefilter("always")
    import torch, cnnext
with warnings.catch_warnings(record=True) as at_call:
    warnings.simplefilter("always")
    x = torch.arange(9.0).view(3, 3).requires_grad_()
    for _ in range(2):
        y = cnnext.functional.corr2d(x, torch.ones(2, 2))
    y.sum().backward()
assert y.tolist() == [[8, 12], [20, 24]] and x.grad[1, 1] == 4
for caught in (at_import, at_call):
    print([str(warning.message) for warning in caught if "cnnext" in str(warning.message)])
"""


class Installation:
    """A copy of the package, with its sources inside it as an installed one has them, and its own cache."""

    def __init__(self, folder):
        self.package, self.cache = folder / "site/cnnext", folder / "cache"
        shutil.copytree(ROOT / "cnnext", self.package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        shutil.copytree(ROOT / "csrc", self.package / "csrc")

    def start(self, *command, interpreter=sys.executable, **environment):
        """Start Python on ``command``; a None in the environment removes a variable."""
        settings = {
            **os.environ,
            "PYTHONPATH": self.package.parent,
            "CNNEXT_CACHE": self.cache,
            **environment,
        }
        settings = {name: str(value) for name, value in settings.items() if value is not None}
        return subprocess.Popen(
            [interpreter, *map(str, command)],
            cwd=self.package.parent,
            env=settings,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, *command, **environment):
        """Return what the process printed on stdout and stderr, when it succeeded."""
        return finish(self.start(*command, **environment))


def finish(process):
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, f"{output[-3000:]}\n{errors[-3000:]}"
    return output, errors


def leave_only_corr2d(csrc):
    """Remove the kernels of all other ops, whose schemas stay: a library that is built in seconds."""
    for file in (*(csrc / "cpu").glob("*.cpp"), *(csrc / "cuda").glob("*.cu")):
        if not file.name.startswith("corr2d"):
            file.unlink()


def elf_sections(data):
    """(type, offset, size, linked section) of every section of a 64-bit little-endian ELF file."""
    assert data[:6] == b"\x7fELF\x02\x01"
    (table,), (size, count) = struct.unpack_from("<Q", data, 0x28), struct.unpack_from("<HH", data, 0x3A)
    for i in range(count):
        _, kind, _, _, offset, length, link, _, _, _ = struct.unpack_from("<IIQQQQIIQQ", data, table + i * size)
        yield kind, offset, length, link


def elf_dynamic(path):
    """Names of the symbols that a library needs, of those it offers, and of the libraries it is linked to."""
    data = path.read_bytes()
    sections = list(elf_sections(data))

    def text(section, start):
        start += sections[section][1]
        return data[start : data.index(b"\0", start)].decode()

    needs, offers, linked = set(), set(), set()
    for kind, offset, length, link in sections:
        if kind == 11:  # SHT_DYNSYM; its first entry is empty
            for at in range(offset + 24, offset + length, 24):
                name, _, _, defined_in = struct.unpack_from("<IBBH", data, at)
                (offers if defined_in else needs).add(text(link, name))
        if kind == 6:  # SHT_DYNAMIC
            entries = struct.iter_unpack("<QQ", data[offset : offset + length])
            linked |= {text(link, value) for tag, value in entries if tag == 1}  # DT_NEEDED
    return needs, offers, linked
