"""What the Triton kernels take of a GPU, compiled without one: their section of bench/results/kernels.md.

    python bench/kernels_triton.py    # this section alone, anew; `make kernels` makes them all

The figures of each layer, config and target lie beside the table, in kernels_triton.json.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench/results"
HEADING = "## What each Triton kernel takes"
TARGETS = (75, 80, 90, 100, 120)
KINDS = ("float16", "tf32", "float32", "float64")
PASSES = ("forward", "backward_input", "backward_weight", "fused", "fused, weight")
NORM = "with parameters in torch.float32"
OTHERS = (
    *(f"depthwise {name}" for name in PASSES),
    *(f"{name} 3x3 stride 2" for name in ("max_pool2d", "max_pool2d_backward", "max_pool2d_gather")),
    *(f"{name} 3x3 stride 2 True None" for name in ("avg_pool2d", "avg_pool2d_backward")),
    *("adaptive 7", "adaptive 7 backward"),
    *(f"{name} {NORM}" for name in ("batch_norm", "batch_norm_update_", "batch_norm_backward True")),
    *("batch_norm_relu", "batch_norm_relu_backward by input", "batch_norm_relu_backward by output"),
)
TEXT = (
    "With the configs that are taken without measuring, on layers of `cnnext/triton/resource_cases.py`: the most "
    "registers a thread, and of all targets the most shared memory of a block and the most bytes that a thread spills. "
    "On tensor cores: the instructions of sm_80, sm_90, sm_100 and sm_120 where the kernel multiplies matrices; Triton "
    "has none for sm_75, nor for float32 that is not tf32. Each layer, config and target: "
    "[kernels_triton.json](kernels_triton.json)."
)
TITLE = [
    "Triton kernel",
    "dtype",
    *(f"registers sm_{target}" for target in TARGETS),
    "shared bytes",
    "spilled bytes",
    "on tensor cores",
]
Row = dict[str, Any]


def resources() -> list[Row]:
    """One row for each kernel, layer and target, from `python -m cnnext.triton.resources --json`.

    Raises:
        RuntimeError: a kernel cannot be compiled; the text is that command's.
    """
    gemm = [f"3x3 {name}, {kind}, channels_last" for name in PASSES for kind in KINDS]
    gemm += [f"first layer {name}, float16, nchw" for name in PASSES]
    others = [f"{name}, float16, channels_last" for name in OTHERS]
    return [*_compiled(KINDS, gemm), *_compiled(KINDS[:1], ["corr2d", *others])]


def _compiled(kinds: tuple[str, ...], cases: list[str]) -> list[Row]:
    command = [sys.executable, "-m", "cnnext.triton.resources", "--json", "--targets", *map(str, TARGETS)]
    command += ["--kinds", *kinds, "--only", *cases]
    compiling = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run(command, cwd=ROOT, env=compiling, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-4000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def rows(found: list[Row]) -> list[list[str]]:
    """Of each kernel and dtype: name, dtype, registers on each target, shared memory, spills, instructions."""
    of_kernel: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in found:
        of_kernel[row["kernel"], row["case"].split(", ")[-2]].append(row)
    table = []
    for (kernel, dtype), kind in sorted(of_kernel.items()):
        registers = [max((r["registers"] for r in kind if r["target"] == target), default="") for target in TARGETS]
        instructions = {name for r in kind for name in r["instructions"]}
        most = [max(row[what] for row in kind) for what in ("shared_bytes", "spill_bytes")]
        table.append([f"`{kernel}`", dtype, *map(str, [*registers, *most]), ", ".join(sorted(instructions))])
    return table


def section(found: list[Row] | None = None) -> list[str]:
    """The paragraphs of the report, of what was ``found`` or is compiled now, and written beside it."""
    if found is None and importlib.util.find_spec("triton") is None:
        return [HEADING, "Not made: triton is not installed."]
    found = resources() if found is None else found
    (RESULTS / "kernels_triton.json").write_text("[\n" + ",\n".join(map(json.dumps, found)) + "\n]\n")
    lines = [TITLE, ["---"] * 2 + ["---:"] * 7 + ["---"], *rows(found)]
    return [HEADING, TEXT, "\n".join(f"| {' | '.join(line)} |" for line in lines)]


def main() -> None:
    """Put a new section in the place of the old one, which is the last of the report."""
    report = RESULTS / "kernels.md"
    before = report.read_text().split(HEADING)[0].rstrip()
    report.write_text("\n\n".join([before, *section()]) + "\n")
    print(report)


if __name__ == "__main__":
    main()
