"""`make kernels`: figures of the CUDA and Triton kernels that need no GPU, as bench/results/kernels.md.

What nvcc gives each kernel of registers and shared memory, how many of its blocks a multiprocessor holds, how much of
its main loop is arithmetic; and, counted by the emulator on layers of the chapters' models, the memory transactions of
each kernel over the fewest that would do. What Triton's compiler gives each of its kernels. None of these is a time.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the emulator

import emulated  # noqa: E402
import kernels_block  # noqa: E402
import kernels_layers  # noqa: E402
import kernels_static  # noqa: E402
import kernels_triton  # noqa: E402
from emulator import build  # noqa: E402

import cnnext  # noqa: E402

OUTPUT = ROOT / "bench/results/kernels.md"
MAIN_LOOPS = """\
Aimed at are 0.5 of HMMA in float16 and 0.7 of FFMA in float32; `tests/test_cuda_main_loops.py` holds the kernels to it
that can reach them. Those that cannot:

- HMMA in tiles below 128x128. A warp's tile of m by n takes m·n/128 HMMA for each 16 of gemm_k, but (m + n)/16 LDSM,
  and each thread (M + N)/64 copies of 16 bytes for the block's M by N, of up to four instructions. For 64x64 these
  are as many as the HMMA, before the loop's own 25 instructions for each 32 of gemm_k. (An HMMA keeps the tensor cores
  of an sm_80 busy for 8 cycles, in which a warp scheduler issues 8 instructions: shares above 0.13 can saturate them.)
- HMMA where values are gathered one by one (`false`): NCHW, or channels that are no multiple of 16 bytes. Eight loads,
  tests and packings take the place of one copy.
- FFMA in tiles of 64x64 and below, and of 128x64 in the weight gradient, copied value by value (`(Load)0`, `(Load)1`):
  a thread copies 12 to 16 values for 256 to 512 FFMA, at up to ten instructions each: the table, two comparisons, an
  address of two words, load, store.
- Kernels with a prologue (the last `true` of an implicit GEMM), which also normalise what they copy."""
RATIOS = {
    "load sectors": ("global_load_sectors", "global_load_ideal_sectors"),
    "store sectors": ("global_store_sectors", "global_store_ideal_sectors"),
    "shared loads": ("shared_load_wavefronts", "shared_load_ideal_wavefronts"),
    "shared stores": ("shared_store_wavefronts", "shared_store_ideal_wavefronts"),
}


def run_layers() -> tuple[dict[str, dict[str, dict[str, int]]], dict[str, tuple[int, int]]]:
    """{layer: {launch name: counters}}, and {mangled kernel: (threads, dynamic shared bytes)}."""
    emulated.load("traced")
    control = build.control("traced")
    control.set_sampled_blocks(8)
    counted = {}
    with cnnext.backend("traced"):
        for name, run in kernels_layers.layers().items():
            control.reset_counters()
            run()
            counted[name] = control.counters()
    blocks = {}
    for library in {path for path, *_ in control.launched_functions()}:
        symbols = _symbols(library)
        for path, offset, threads, shared in control.launched_functions():
            if path == library and offset in symbols:
                blocks[symbols[offset]] = (threads, shared)
    return counted, blocks


def _symbols(library: str) -> dict[int, str]:
    listing = subprocess.run(["nm", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    fields = (line.split() for line in listing.splitlines())
    return {int(address, 16): name for address, _, name in fields}


def demangled(names: list[str]) -> list[str]:
    """`kernel<arguments>` of each, without our namespaces and parameters."""
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    short = []
    for line in text.splitlines():
        head = line.removeprefix("void ").split(">(")[0] + (">" if ">(" in line else "")
        head = head if ">(" in line else line.split("(")[0]
        for prefix in ("cnnext::implicit_gemm::", "cnnext::tensor_core::", "cnnext::winograd::", "cnnext::"):
            head = head.replace(prefix, "")
        short.append(head.replace("> >", ">>").strip())
    return short


def table(title: list[str], rows: list[list[str]]) -> str:
    lines = [title, ["---", *["---:"] * (len(title) - 1)], *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def static_table(kernels: dict[str, kernels_static.Kernel], blocks: dict[str, tuple[int, int]]) -> str:
    architectures = list(kernels_static.MULTIPROCESSORS)
    title = ["kernel", *(f"{what} sm_{sm}" for what in ("registers", "blocks") for sm in architectures)]
    title += ["threads", "static + dynamic shared bytes", "spilled bytes", "HMMA", "FFMA"]
    rows = []
    for mangled, name in sorted(zip(kernels, demangled(list(kernels)), strict=True), key=lambda pair: pair[1]):
        kernel, (threads, dynamic) = kernels[mangled], blocks.get(mangled, (0, 0))
        of = [kernel.resources[sm] for sm in architectures]
        row = [f"`{name}`", *(str(one.registers) for one in of)]
        row += [
            str(one.blocks(sm, threads, dynamic)) if threads else "" for sm, one in zip(architectures, of, strict=True)
        ]
        shared = f"{max(one.static_shared_bytes for one in of)} + {dynamic if threads else '?'}"
        row += [str(threads or ""), shared, str(max(one.spilled_bytes for one in of))]
        rows.append([*row, *(f"{kernel.main_loop.get(kind, 0):.2f}".replace("0.00", "") for kind in ("HMMA", "FFMA"))])
    return table(title, rows)


def traffic_table(counted: dict[str, dict[str, dict[str, int]]]) -> str:
    rows = []
    for layer, kernels in counted.items():
        for kernel, values in sorted(kernels.items()):
            ratios = [f"{values[a] / values[b]:.2f}" if values[b] else "" for a, b in RATIOS.values()]
            rows.append([layer, f"`{kernel}`", str(values["blocks"]), *ratios])
    return table(["layer", "kernel", "blocks", *RATIOS], rows)


def main() -> None:
    reason = emulated.unavailable()
    if reason is not None:
        sys.exit(f"make kernels: the kernels cannot be emulated: {reason}")
    kernels = kernels_static.compile_all()
    counted, blocks = run_layers()
    text = [
        "# The CUDA and Triton kernels without a GPU",
        "Made by `make kernels`; no figure here is a time.",
        "## What each CUDA kernel takes",
        "Registers a thread, shared memory and spills are nvcc's; blocks are those that one multiprocessor holds, by "
        "its limits, for the largest block that a layer below was launched with (empty: none was). HMMA and FFMA are "
        "their shares of the instructions in the main loop on sm_80, the innermost loop that has the most of them.",
        MAIN_LOOPS,
        static_table(kernels, blocks),
        "## What each CUDA kernel moves",
        "Counted by the emulator: 32-byte sectors of global memory over the distinct bytes of each request, and "
        "wavefronts of shared memory over one for each group of lanes that the hardware serves at once. 1.00 is ideal.",
        traffic_table(counted),
        *kernels_block.section(),
        table(kernels_block.TITLE, kernels_block.rows()),
        *kernels_triton.section(),
    ]
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text("\n\n".join(text) + "\n")
    print(f"{len(kernels)} kernels, {len(counted)} layers: {OUTPUT}")


if __name__ == "__main__":
    main()
