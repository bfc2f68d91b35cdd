"""The files of bench/ that pytest-benchmark runs: one for each op, with parity, ratios, commit and machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import cnnext
from cnnext.bench.command import OPS

BENCH = Path(__file__).resolve().parent.parent / "bench"


def test_every_op_has_a_file():
    assert {f"bench_{op}.py" for op in OPS} <= {path.name for path in BENCH.glob("bench_*.py")}


def run(*arguments):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=BENCH.parent)


@pytest.mark.slow
@pytest.mark.skipif(cnnext.library.cpu_unavailable is not None, reason="there is no CPU library to measure")
def test_what_a_file_writes(tmp_path):
    pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed: pip install 'cnnext[bench]'")
    found = tmp_path / "found.json"
    quick = ["--device=cpu", "--row-seconds=0.001", "--passes", "forward", "--networks", "edge"]
    done = run("bench/bench_corr2d.py", *quick, f"--benchmark-json={found}")
    assert done.returncode == 0, done.stdout
    assert "time of the fastest peer over ours" in done.stdout
    results = json.loads(found.read_text())
    assert [one["name"] for one in results["benchmarks"]] == [
        f"test_layer[edge {size}, forward, float32]" for size in ("3x3", "11x11")
    ]
    for one in results["benchmarks"]:
        extra = one["extra_info"]
        assert extra["parity"]["holds"] and len(extra["ratio"]) == 3 and extra["peer"].startswith("torch")
    assert {"commit", "torch", "isa", "threads"} <= set(results["machine_info"]["cnnext"])
    assert results["commit_info"]["id"]


@pytest.mark.slow
def test_no_time_left():
    pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed: pip install 'cnnext[bench]'")
    done = run("bench/bench_corr2d.py", "--minutes=0", "--device=cpu", "--row-seconds=0.001")
    assert done.returncode == 0 and "8 skipped" in done.stdout and "no time is left of --minutes" in done.stdout
