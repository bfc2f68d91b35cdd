"""The share of arithmetic in the GEMM kernels' main loops, in nvcc's code for sm_80 (bench/kernels_static.py)."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cnnext import _build
from cnnext._build import cuda

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))

import kernels_static  # noqa: E402

LOOP = """
        /*0000*/                   FFMA R1, R2, R3, R1 ;
        /*0010*/                   IADD3 R4, R4, 0x1, RZ ;
        /*0020*/                   FFMA R1, R2, R3, R1 ;
        /*0030*/                   FFMA R5, R2, R3, R5 ;
        /*0040*/              @!P0 BRA 0x20 ;
        /*0050*/               @P1 BRA 0x90 ;
        /*0060*/               @P0 BRA 0x10 ;
        /*0070*/                   EXIT ;
"""
LEAST = {
    # What the shapes of the tiles allow: see the text in bench/kernels.py.
    "conv2d_tensor_core_float16": ("HMMA", 0.5, r"TileConfig<128, 128, .*true"),
    # The last argument of these is whether there is a prologue, whose own instructions are then in the loop.
    "conv2d_implicit_gemm_float32": (
        "FFMA",
        0.7,
        r"(\(Load\)[23].*|gather.*TileConfig<128.*), false$",
    ),
}


def test_main_loop_is_the_innermost_and_its_share_is_counted():
    assert kernels_static.main_loop(LOOP) == {"FFMA": 2 / 3}  # not the loop around it, which has as many
    assert kernels_static.main_loop(LOOP.replace("FFMA", "FADD")) == {}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("source", LEAST)
def test_main_loops_are_mostly_arithmetic(source, tmp_path):
    kind, least, which = LEAST[source]
    tools = _build.CUDA.find_tools()
    fatbin = tmp_path / "kernels.fatbin"
    command = [tools.nvcc, *cuda.NVCC_FLAGS, *_build.ABI_FLAGS, f"-isystem={tools.torch_include}"]
    command += ["-gencode=arch=compute_80,code=sm_80", "-fatbin", f"{ROOT}/csrc/cuda/{source}.cu", "-o", str(fatbin)]
    subprocess.run(command, check=True, capture_output=True)
    shares = kernels_static.main_loops(fatbin)
    names = dict(zip(shares, _demangled(list(shares)), strict=True))
    held = {names[name]: share[kind] for name, share in shares.items() if re.search(which, names[name])}
    assert len(held) >= 2 and min(held.values()) >= least, held


def _demangled(names):
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return [
        line.replace("cnnext::", "").replace("tensor_core::", "").replace("implicit_gemm::", "").split(">(")[0]
        for line in text.splitlines()
    ]
