"""What every Triton kernel takes of a GPU: registers, shared memory and spills, compiled without a device.

    python -m cnnext.triton.resources --targets 80 90      # a table, of the configs that are chosen without measuring
    python -m cnnext.triton.resources --every-config --json

The launchers run on tensors without memory, and their launches are recorded; each is compiled for every target.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cnnext.triton import support
from cnnext.triton.launch import Launch, recording
from cnnext.triton.resource_cases import KINDS, cases
from cnnext.triton.target import TARGETS

DEFAULT_TARGETS = (75, 80, 90, 100, 120)
TENSOR_CORES = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma", 120: "mma.sync"}
"""The instruction that multiplies matrices on a target: the start of its name in PTX."""


@dataclass(frozen=True)
class Resources:
    """One kernel, compiled.

    Attributes:
        kernel, case, config: what was compiled, and for which of :func:`~cnnext.triton.resource_cases.cases`.
        target: compute capability times ten.
        registers: of a thread.
        shared_bytes: of a block.
        spill_bytes: what a thread stores for want of registers.
        matrix: whether the source multiplies matrices.
        instructions: tensor-core instructions of the PTX, without their shapes.
    """

    kernel: str
    case: str
    config: str
    target: int
    registers: int
    shared_bytes: int
    spill_bytes: int
    matrix: bool
    instructions: tuple[str, ...]


def signature(launch: Launch) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], Any]]:
    """Types, constants and divisibility of a launch's arguments, as Triton derives them from values at a launch."""
    types: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], Any] = {}
    for i, name in enumerate(launch.kernel.function.arg_names):
        value = launch.arguments.get(name)
        if name not in launch.arguments or value is None or (isinstance(value, int) and value == 1):
            types[name] = "constexpr"
            if name in launch.arguments:
                constants[name] = value
            continue
        if isinstance(value, torch.Tensor):
            types[name] = f"*{triton.runtime.jit.type_canonicalisation_dict[str(value.dtype).split('.')[-1]]}"
        else:
            types[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
        if isinstance(value, torch.Tensor) or value % 16 == 0:
            attributes[(i,)] = [["tt.divisibility", 16]]
    return types, {**constants, **launch.constants}, attributes


def compile_launch(launch: Launch, config: triton.Config, target: int) -> Any:
    """Compile a recorded launch with ``config`` for a target; Triton's compiled kernel, whose ``asm`` has the PTX."""
    types, constants, attributes = signature(launch)
    source = ASTSource(launch.kernel.function, types, {**constants, **config.kwargs}, attributes)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)


def _spill_bytes(ptx: str, target: int) -> int:
    """Bytes of spill stores; the stack that a cubin tells of holds what is passed to functions, too."""
    found = re.search(r"^\.target (sm_\w+)", ptx, re.M)
    assert found
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        tools = triton.knobs.nvidia
        assembler = tools.ptxas_blackwell if target >= 100 else tools.ptxas
        command = [assembler.path, "-v", f"--gpu-name={found[1]}", file.name, "-o", "/dev/null"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return sum(map(int, re.findall(r"(\d+) bytes spill stores", told)))


def measure(launch: Launch, case: str, config: triton.Config, target: int) -> Resources:
    """Compile a recorded launch and read what it takes.

    Raises:
        RuntimeError: it cannot be compiled; the text names kernel, config and target.
    """
    try:
        compiled = compile_launch(launch, config, target)
    except Exception as error:
        raise RuntimeError(f"{launch.kernel.name} [{config}] for sm_{target}, {case}: {error}") from error
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = {name: int(value) for name, value in re.findall(r"(REG|LOCAL|STACK):(\d+)", usage)}
    ptx = compiled.asm["ptx"]
    return Resources(
        kernel=launch.kernel.name,
        case=case,
        config=str(config),
        target=target,
        registers=found["REG"],
        shared_bytes=compiled.metadata.shared,
        spill_bytes=_spill_bytes(ptx, target) if found["LOCAL"] + found["STACK"] else 0,
        matrix="tt.dot" in compiled.asm["ttir"],
        instructions=tuple(sorted(set(re.findall(r"\b(mma\.sync|wgmma\.mma_async|tcgen05\.mma)\b", ptx)))),
    )


def resources(
    targets: Iterable[int] = DEFAULT_TARGETS,
    kinds: Iterable[str] = KINDS,
    every_config: bool = False,
    only: Iterable[str] = ("",),
) -> Iterator[Resources]:
    """Compile the kernels of :func:`~cnnext.triton.resource_cases.cases` and yield what each takes, each kernel once.

    Args:
        targets: compute capabilities times ten, among :data:`TARGETS`.
        kinds: among :data:`KINDS`.
        every_config: all configs that fit the target, instead of the one that is chosen without measuring.
        only: parts of names: cases that have one of them are wanted.

    Raises:
        RuntimeError: one cannot be compiled, or triton interprets in this process.
    """
    if support.interpreting():
        raise RuntimeError("kernels cannot be compiled where TRITON_INTERPRET=1: run this in a process without it")
    support.load()
    for target in targets:
        seen = set()
        for case, run in cases(kinds, only):
            with recording(TARGETS[target]) as launches:
                run()
            for launch in launches:
                for config in launch.configs if every_config else launch.configs[:1]:
                    key = repr((launch.kernel.name, signature(launch), config.all_kwargs()))
                    if key not in seen:
                        seen.add(key)
                        yield measure(launch, case, config, target)


def main(arguments: list[str] | None = None) -> int:
    """Print the table, or a line of JSON for each kernel."""
    parser = argparse.ArgumentParser(prog="python -m cnnext.triton.resources", description=__doc__.split("\n")[0])
    parser.add_argument("--targets", type=int, nargs="+", choices=TARGETS, default=DEFAULT_TARGETS)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=tuple(KINDS))
    parser.add_argument("--every-config", action="store_true", help="not only the configs chosen without measuring")
    parser.add_argument("--only", nargs="+", default=("",), help="parts of names: cases that have one of them")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each kernel")
    args = parser.parse_args(arguments)
    for one in resources(args.targets, args.kinds, args.every_config, args.only):
        if args.json:
            print(json.dumps(asdict(one)), flush=True)
        else:
            matrix = f" {'+'.join(one.instructions) or 'no tensor cores'}" if one.matrix else ""
            print(
                f"sm_{one.target} {one.kernel} ({one.case}) [{one.config}]: {one.registers} registers, "
                f"{one.shared_bytes} B shared, {one.spill_bytes} B spilled{matrix}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
