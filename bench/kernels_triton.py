"""What the Triton kernels take of a GPU, compiled without one: their section of bench/results/kernels.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

TARGETS = (75, 80, 90, 100, 120)
KINDS = ("float16", "float32")
TEXT = (
    "With the configs that are taken without measuring, for all layers of `cnnext/triton/resource_cases.py`: the most "
    "registers a thread, and of all targets the most shared memory of a block and the most bytes that a thread spills. "
    "On tensor cores: the instructions of sm_80, sm_90, sm_100 and sm_120 where the kernel multiplies matrices."
)


def resources() -> list[dict[str, Any]]:
    """One row for each kernel, case and target, from `python -m cnnext.triton.resources --json`.

    Raises:
        RuntimeError: a kernel cannot be compiled; the text is that command's.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [row for rows in pool.map(_resources_on, TARGETS) for row in rows]


def _resources_on(target: int) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "cnnext.triton.resources", "--json", f"--targets={target}", "--kinds", *KINDS]
    compiling = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run(command, env=compiling, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-4000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def rows(found: list[dict[str, Any]]) -> list[list[str]]:
    """Of each kernel and dtype: name, dtype, registers on each target, shared memory, spills, instructions."""
    of_kernel: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in found:
        of_kernel[row["kernel"], row["case"].split(", ")[-2]].append(row)
    table = []
    for (kernel, dtype), kind in sorted(of_kernel.items()):
        registers = [max((r["registers"] for r in kind if r["target"] == target), default="") for target in TARGETS]
        instructions = {name for r in kind for name in r["instructions"]}
        most = [max(row[what] for row in kind) for what in ("shared_bytes", "spill_bytes")]
        table.append([f"`{kernel}`", dtype, *map(str, [*registers, *most]), ", ".join(sorted(instructions))])
    return table


TITLE = [
    "Triton kernel",
    "dtype",
    *(f"registers sm_{target}" for target in TARGETS),
    "shared bytes",
    "spilled bytes",
    "on tensor cores",
]
