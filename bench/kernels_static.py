"""What nvcc makes of csrc/cuda: registers, shared memory, spills, blocks per multiprocessor, and the main loops."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from cnnext import _build
from cnnext._build import architectures, cuda

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build/kernels"

ENTRY = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)' for 'sm_(?P<sm>\d+)'.*?"
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
INSTRUCTION = re.compile(r"^\s+/\*(?P<address>[0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?(?P<name>[A-Z0-9_]+)(?P<rest>[^;]*);")


@dataclass(frozen=True)
class Multiprocessor:
    """Its limits (CUDA C++ Programming Guide, "Technical specifications per compute capability")."""

    shared_bytes: int
    warps: int
    blocks: int
    reserved_shared_bytes: int  # by the driver, for each block
    registers: int = 65536
    registers_at_once: int = 256  # a warp's registers come in such pieces


MULTIPROCESSORS = {
    "75": Multiprocessor(64 * 1024, 32, 16, 0),
    "80": Multiprocessor(164 * 1024, 64, 32, 1024),
    "90": Multiprocessor(228 * 1024, 64, 32, 1024),
}


@dataclass
class Resources:
    """What one kernel takes on one architecture."""

    registers: int
    static_shared_bytes: int
    spilled_bytes: int

    def blocks(self, sm: str, threads: int, dynamic_shared_bytes: int) -> int:
        """How many blocks of that size a multiprocessor holds at once."""
        limits = MULTIPROCESSORS[sm]
        warps = -(-threads // 32)
        piece = limits.registers_at_once
        registers = -(-self.registers * 32 // piece) * piece * warps
        shared = self.static_shared_bytes + dynamic_shared_bytes + limits.reserved_shared_bytes
        by_shared = limits.shared_bytes // shared if shared else limits.blocks
        return min(limits.blocks, limits.warps // warps, limits.registers // registers, by_shared)


@dataclass
class Kernel:
    """One instantiation, by its mangled name."""

    resources: dict[str, Resources] = field(default_factory=dict)  # by architecture, "80"
    main_loop: dict[str, float] = field(default_factory=dict)  # on sm_80: share of each kind of instruction


def compile_all() -> dict[str, Kernel]:
    """Compile every .cu for the architectures of MULTIPROCESSORS, and read what came of it."""
    with ThreadPoolExecutor(2) as pool:
        logs = list(pool.map(_compile, sorted((ROOT / "csrc/cuda").glob("*.cu"))))
    kernels: dict[str, Kernel] = {}
    for log, fatbin in logs:
        for entry in ENTRY.finditer(log):
            shared = re.search(r"(\d+) bytes smem", entry["rest"])
            spilled = max(int(entry["stores"]), int(entry["loads"]))
            found = Resources(int(entry["registers"]), int(shared.group(1)) if shared else 0, spilled)
            kernels.setdefault(entry["kernel"], Kernel()).resources[entry["sm"]] = found
        for name, share in main_loops(fatbin).items():
            if name in kernels:
                kernels[name].main_loop = share
    return kernels


def _compile(source: Path) -> tuple[str, Path]:
    WORK.mkdir(parents=True, exist_ok=True)
    tools = _build.CUDA.find_tools()
    codes = architectures.nvcc_flags([f"{sm[:-1]}.{sm[-1]}" for sm in MULTIPROCESSORS])
    fatbin, log, stamp = (WORK / f"{source.stem}.{suffix}" for suffix in ("fatbin", "log", "stamp"))
    made_of = f"{_build.CUDA.stamp()} {tools}"
    if not (stamp.is_file() and stamp.read_text() == made_of):
        command = [tools.nvcc, *cuda.NVCC_FLAGS, *_build.ABI_FLAGS, f"-isystem={tools.torch_include}", *codes]
        command += ["-Xptxas=-v", "-fatbin", str(source), "-o", str(fatbin)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-4000:]}")
        log.write_text(done.stderr)
        stamp.write_text(made_of)
    return log.read_text(), fatbin


def find_cuobjdump() -> str:
    """The toolkit's, or the one that comes with triton."""
    beside = [Path(packages) / "triton/backends/nvidia/bin/cuobjdump" for packages in sys.path]
    found = shutil.which("cuobjdump") or next((str(path) for path in beside if path.is_file()), None)
    if found is None:
        raise FileNotFoundError("cuobjdump was found neither on the path nor beside triton: pip install triton")
    return found


def main_loops(fatbin: Path, sm: str = "80") -> dict[str, dict[str, float]]:
    """For each kernel with arithmetic in a loop, the share of HMMA or of FFMA in its main loop: {"FFMA": 0.8}.

    The main loop is the innermost one that holds the most of either instruction, by the disassembly's branches back;
    of two such the shorter. The share is that of the instructions between the branch's target and the branch that are
    HMMA or FFMA, each counted once: what a warp issues in one turn if no branch inside is taken. Not counted is what
    an outer loop does between two runs of the main one, such as describing the next pixels.
    """
    command = [find_cuobjdump(), "-sass", "-arch", f"sm_{sm}", str(fatbin)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts = re.split(r"^\s*Function : (\w+)\n", text, flags=re.MULTILINE)
    return {name: share for name, code in zip(parts[1::2], parts[2::2], strict=True) if (share := main_loop(code))}


def main_loop(code: str) -> dict[str, float]:
    """The share of :func:`main_loops` for one kernel's disassembly; empty if no loop multiplies."""
    instructions = [found for line in code.splitlines() if (found := INSTRUCTION.match(line))]
    places = {int(found["address"], 16): place for place, found in enumerate(instructions)}
    names = [found["name"] for found in instructions]
    loops = []
    for end, found in enumerate(instructions):
        target = re.search(r"0x([0-9a-f]+)\s*$", found["rest"]) if found["name"] == "BRA" else None
        begin = places.get(int(target.group(1), 16)) if target else None
        if begin is not None and begin < end:
            loops.append(names[begin : end + 1])
    for kind in ("HMMA", "FFMA"):
        body = max(loops, key=lambda body: (body.count(kind), -len(body)), default=[])
        if kind in body:
            return {kind: body.count(kind) / len(body)}
    return {}
