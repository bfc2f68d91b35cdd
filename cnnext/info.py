"""What is installed, what is built, and which backend runs which op: the report of ``cnnext info``."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Sequence
from importlib import metadata

import torch

import cnnext
from cnnext import cuda_devices, library, registration, triton
from cnnext._build import CPU, CUDA
from cnnext.backends import CHOOSERS, INTERPRETED, backends, get
from cnnext.data import files


def isa() -> str | None:
    """The instruction set that the CPU kernels use: generic, avx2 or avx512; None where no library tells."""
    path = library.loaded(CPU)
    read = getattr(ctypes.CDLL(str(path)), "cnnext_isa", None) if path else None
    if read is None:
        return None
    read.restype = ctypes.c_char_p
    return read().decode()


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows as aligned columns; those whose numbers are in ``right`` are aligned to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def report() -> str:
    """The whole report."""
    parts = [("Versions", _versions()), ("Machine", _machine()), ("Built", _built()), ("Folders", _folders())]
    texts = [f"{title}\n{_indent(table(rows))}" for title, rows in parts]
    return "\n\n".join([*texts, f"Who runs what\n{_indent(_who_runs_what())}"])


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def version(package: str) -> str:
    """The version of an installed package, or that it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _versions() -> list[list[str]]:
    cuda = f" (CUDA {torch.version.cuda})" if torch.version.cuda else " (no CUDA)"
    return [
        ["cnnext", cnnext.__version__],
        ["python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"],
        ["torch", torch.__version__ + cuda],
        *([package, version(package)] for package in ("triton", "numpy", "matplotlib")),
    ]


def _machine() -> list[list[str]]:
    capped = f" (capped by CNNEXT_ISA={os.environ['CNNEXT_ISA']})" if os.environ.get("CNNEXT_ISA") else ""
    gpus = [
        [f"GPU {i}", f"{torch.cuda.get_device_name(i)}, sm_{major}{minor}"]
        for i in range(torch.cuda.device_count())
        for major, minor in [torch.cuda.get_device_capability(i)]
    ]
    return [
        ["cores", f"{usable_cores()} usable of {os.cpu_count()}"],
        ["threads", f"{torch.get_num_threads()} (torch.set_num_threads)"],
        ["instruction set", f"{isa() or 'unknown, for there is no library'}{capped}"],
        *(gpus or [["GPU", "none in sight"]]),
    ]


def usable_cores() -> int:
    """Cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _built() -> list[list[str]]:
    rows = [
        ["CPU library", str(library.loaded(CPU) or f"not there: {library.cpu_unavailable}")],
        ["Triton kernels", _triton()],
    ]
    code = cuda_devices.loaded_code()
    if code is None:
        return [*rows, ["CUDA library", f"not there: {library.cuda_unavailable}"]]
    made = f" (CUDA {code.toolkit}, for {', '.join(code.architectures)})"
    return [*rows, ["CUDA library", f"{library.loaded(CUDA)}{made}"]]


def _triton() -> str:
    reason = triton.off()
    if reason is None and not INTERPRETED and not torch.cuda.is_available():
        reason = "they need a GPU, and none is in sight"
    return f"off: {reason}" if reason else "interpreted" if INTERPRETED else "compiled when they are first used"


def _folders() -> list[list[str]]:
    named = files.find(None, tuple(files.SHA256))
    cache = library.cache_folder()
    return [
        ["cache", f"{cache}{'' if cache.is_dir() else ' (made when it is needed)'}"],
        ["Fashion-MNIST", str(named) if named else "not here yet: `cnnext train` gets it"],
    ]


def _who_runs_what() -> str:
    """Per op and device, which backends run it (float32), then why the others do not."""
    names = [name for name in backends() if name not in CHOOSERS]
    devices = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
    rows = [["op", "on", *names]]
    reasons: dict[str, set[str]] = {}
    for op in sorted(name for name in registration.SPECS if _is_public(name)):
        for device in devices:
            marks = []
            for name in names:
                reason = get(name).can_run(op, device, torch.float32)
                marks.append("-" if reason else "yes")
                if reason and get(name).takes(device):
                    reasons.setdefault(f"{name} on {device.type}: {reason}", set()).add(op)
            rows.append([op, device.type, *marks])
    why = [f"{text} ({', '.join(sorted(ops))})" for text, ops in reasons.items()]
    return "\n".join([table(rows), *why])


def _is_public(op: str) -> bool:
    """Whether an op has a function of its own in cnnext.functional; the others are steps of those."""
    return hasattr(cnnext.functional, op)
