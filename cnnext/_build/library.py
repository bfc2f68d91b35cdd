"""One shared library: its sources, the stamp that tells whether it is up to date, and its build."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import re
import shlex
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .tools import BuildError, Tools

PACKAGE = Path(__file__).resolve().parent.parent
# The sources lie inside an installed package and beside the package in the source tree.
SOURCE_ROOT = PACKAGE if (PACKAGE / "csrc/library.cpp").is_file() else PACKAGE.parent

ABI_FLAGS = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY"]
# Only the C functions that Python calls are visible from outside; -fvisibility=hidden alone leaves libstdc++'s
# templates visible.
EXPORTS = "{ global: cnnext_*; local: *; };\n"


@dataclass(frozen=True)
class Object:
    """One file to compile: ``name`` is the object's, ``rule`` the ninja rule that makes it."""

    source: Path
    name: str
    rule: str
    extra: tuple[str, ...] = ()


def quote(path: Path) -> str:
    """A path as an argument of a command in a ninja file."""
    return shlex.quote(str(path)).replace("$", "$$")


def _escape(path: Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def compile_rule(name: str, command: str) -> list[str]:
    """A ninja rule that compiles, and learns from the compiler which headers it read."""
    return [
        f"rule {name}",
        f"  command = {command} -MMD -MF $out.d $extra -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = compile $out",
    ]


class Library(ABC):
    """A library of the package, ``cnnext/_<name>.so``.

    Attributes:
        name: ``cpu`` or ``cuda``.
        title: what messages call it.
        folders: of ``csrc``, whose files it is made of.
    """

    name: str
    title: str
    folders: tuple[str, ...]

    @property
    def file(self) -> str:
        """The file's name."""
        return f"_{self.name}.so"

    @abstractmethod
    def flags(self) -> str:
        """Everything besides the sources on which the content of the library depends, on every machine alike."""

    @abstractmethod
    def find_tools(self, torch_root: Path | None = None) -> Tools:
        """Find what :meth:`build` needs.

        Args:
            torch_root: the folder that holds the ``torch`` package, where that is known.

        Raises:
            BuildError: something is missing.
        """

    @abstractmethod
    def rules(self, tools: Tools) -> list[str]:
        """Lines of the ninja file: the rules that the objects name, and ``link``."""

    @abstractmethod
    def objects(self) -> list[Object]:
        """What is compiled, in the order in which it is linked."""

    def texts(self, tools: Tools) -> list[str]:
        """Texts that can be read from the built file."""
        return [self.stamp()]

    def stamp(self) -> str:
        """Return the text that is built into the library: ``cnnext-<name>:<schemas>:<everything>``.

        The first hash is over the op schemas, the second over all sources and flags. A library whose stamp
        differs was built from other sources.
        """
        csrc = SOURCE_ROOT / "csrc"
        schemas = (csrc / "library.cpp").read_bytes()
        everything = hashlib.sha256(self.flags().encode() + schemas)
        suffixes = (".h", ".cpp", ".cuh", ".cu")
        files = (file for folder in self.folders for file in (csrc / folder).rglob("[!.]*") if file.suffix in suffixes)
        for file in sorted(files):
            content = file.read_bytes()
            everything.update(f"{file.relative_to(csrc)} {len(content)} ".encode() + content)
        return f"cnnext-{self.name}:{hashlib.sha256(schemas).hexdigest()[:16]}:{everything.hexdigest()[:16]}"

    def read_stamp(self, path: Path) -> str | None:
        """Return the stamp of a built library, without loading it; None if it has none."""
        return find_text(path, f"cnnext-{self.name}:[0-9a-f]{{16}}:[0-9a-f]{{16}}")

    def same_schemas(self, stamp: str | None, other: str | None) -> bool:
        """Whether the libraries of two stamps have the same ops."""
        return stamp is not None and other is not None and stamp.split(":")[1] == other.split(":")[1]

    def build(self, output: Path, work: Path, tools: Tools | None = None, show: bool = False) -> Path:
        """Build the library at ``output``; what is up to date is not built again.

        Args:
            output: the library's path. It appears whole, by a rename.
            work: folder for the objects, kept for the next time. ``MAX_JOBS`` is the number of compilers at once.
            tools: from :meth:`find_tools`, which is called if they are not given.
            show: let the compiler's output through as it comes.

        Raises:
            BuildError: a tool is missing, or the compiler complained.
        """
        if not (SOURCE_ROOT / "csrc/library.cpp").is_file():
            raise BuildError(f"the C++ sources are not at {SOURCE_ROOT / 'csrc'}: install cnnext again")
        tools = tools or self.find_tools()
        output, work = output.resolve(), work.resolve()
        jobs = os.environ.get("MAX_JOBS")
        command = [tools.ninja, "-C", str(work), *(["-j", jobs] if jobs else [])]
        with locked(work):
            output.parent.mkdir(parents=True, exist_ok=True)
            self._write_ninja(work, output, tools)
            pipe = None if show else subprocess.PIPE
            done = subprocess.run(command, stdout=pipe, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            raise BuildError(f"{' '.join(command)} failed\n{(done.stdout or '')[-4000:]}".rstrip())
        return output

    def _write_ninja(self, folder: Path, output: Path, tools: Tools) -> None:
        _write_if_changed(folder / "exports.map", EXPORTS)
        texts = [f'[[gnu::used]] const char cnnext_text_{i}[] = "{text}";' for i, text in enumerate(self.texts(tools))]
        _write_if_changed(folder / "texts.cpp", "\n".join(['extern "C" {', *texts, "}\n"]))
        objects = [*self.objects(), Object(folder / "texts.cpp", "texts.o", "compile")]
        lines = ["ninja_required_version = 1.5", f"cxx = {tools.compiler}", *self.rules(tools)]
        for one in objects:
            lines += [f"build {one.name}: {one.rule} {_escape(one.source)}", f"  extra = {' '.join(one.extra)}"]
        lines += [f"build {_escape(output)}: link {' '.join(one.name for one in objects)} | exports.map", ""]
        _write_if_changed(folder / "build.ninja", "\n".join(lines))


def find_text(path: Path, pattern: str) -> str | None:
    """The first place in a file that matches ``pattern``; read in place, for a library may be large."""
    if path.stat().st_size == 0:
        return None
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = re.search(pattern.encode(), content)
        return found.group().decode() if found else None


def _write_if_changed(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a lock on ``folder`` (made if it is not there): others wait, and a dead process frees it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
