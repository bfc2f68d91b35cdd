"""Where results were measured: commit, versions, machine."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import cnnext
from cnnext.info import isa, usable_cores, version


def describe(device: torch.device) -> dict[str, Any]:
    """Everything a reader needs to judge the times: also what could slow them, the load and the clocks."""
    return {
        **_commit(),
        "cnnext": cnnext.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        **{package: version(package) for package in ("triton", "onnxruntime", "openvino")},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "isa": isa() or "unknown",
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
        "device": str(device.type),
        "gpu": _gpu(device) if device.type == "cuda" else None,
    }


def _commit() -> dict[str, Any]:
    root = Path(cnnext.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return {"commit": "unknown", "changed": False}

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD") or "unknown", "changed": bool(git("status", "--porcelain", "-uno"))}
    except OSError:
        return {"commit": "unknown", "changed": False}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.machine()


def _gpu(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    query = "clocks.sm,clocks.mem,clocks.max.sm,power.limit,driver_version"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", f"--id={device.index or 0}"]
    try:
        clocks = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        clocks = ""
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "memory_bytes": properties.total_memory,
        query: clocks or "unknown",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
