"""``cnnext tune``: measure beforehand what the backend ``auto`` would measure while a model runs."""

from __future__ import annotations

import argparse
from typing import Any

import torch

import cnnext
from cnnext import auto
from cnnext.atomic import require_writable
from cnnext.backends import AUTO, backend
from cnnext.bench import command
from cnnext.bench.plan import DTYPES
from cnnext.commands import UsageError
from cnnext.info import table
from cnnext.testing.networks import NETWORKS

EXAMPLES = """examples:
  cnnext tune resnet18 --shape 16,1,96,96
  cnnext tune my_model.py:Net --shape 8,3,224,224 --dtypes float32 bfloat16

The model runs once in each mode, dtype and layout. `cnnext.backend("auto")` uses what was found."""
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("model", metavar="MODEL", help=f"FILE.py:NAME of a torch.nn.Module, or one of {', '.join(NETWORKS)}")
    add("--shape", metavar="N,C,H,W", help="of its input (default: the network's own)")
    add("--dtypes", nargs="+", choices=DTYPES, default=["float32"], metavar="X", help="(default: float32)")
    add("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS), metavar="X", help="(default: NCHW NHWC)")
    add("--modes", nargs="+", choices=["inference", "training"], default=["inference", "training"], metavar="X")
    add("--device", choices=["cpu", "cuda"], help="(default: cuda where there is a GPU)")


def run_tune(options: argparse.Namespace) -> int:
    """Run the model under ``auto`` and print what was measured."""
    device = command.device_of(options.device)
    model, shape = _model(options, device)
    file = auto.cache_file(device, torch.get_num_threads())
    require_writable(file)
    before = len(auto.measured)
    _run_everywhere(options, model, torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(device))
    rows = [["call", "fastest", "of"]]
    for kind, times in auto.measured[before:]:
        order = sorted(times, key=lambda name: times[name])
        rows.append([kind, order[0], ", ".join(f"{name} {times[name] * 1e3:.3f} ms" for name in order)])
    print(table(rows) if len(rows) > 1 else "nothing to measure: every call of this model is known")
    print(f"choices: {file}")
    return 0


def _model(options: argparse.Namespace, device: torch.device) -> tuple[torch.nn.Module, tuple[int, ...]]:
    if options.model in NETWORKS:
        network = NETWORKS[options.model]
        batch = network.gpu_batch if device.type == "cuda" else network.batch
        shape = command.shape_of(options.shape) if options.shape else (batch, *network.image)
        return network.build(layers=torch.nn), shape
    if ":" not in options.model:
        raise UsageError(f"model {options.model!r} is unknown: FILE.py:NAME, or one of {', '.join(NETWORKS)}")
    if options.shape is None:
        raise UsageError(f"{options.model} needs the shape of its input: --shape N,C,H,W")
    return command.load_module(options.model), command.shape_of(options.shape)


def _run_everywhere(options: argparse.Namespace, model: torch.nn.Module, images: torch.Tensor) -> None:
    model = model.to(images.device)
    try:
        with torch.no_grad():
            model.eval()(images[:1])  # lazy layers learn their sizes
    except Exception as error:  # whatever the user's module raises
        raise UsageError(f"{options.model} does not accept --shape {list(images.shape)}: {error}") from error
    cnnext.swap(model)
    with backend(AUTO):
        for dtype in options.dtypes:
            for layout in options.layouts:
                form: Any = {"memory_format": LAYOUTS[layout]} if images.dim() == 4 else {}
                model.to(dtype=DTYPES[dtype], **form)
                for mode in options.modes:
                    model.train(mode == "training")
                    with torch.set_grad_enabled(mode == "training"):
                        model(images.to(DTYPES[dtype]).contiguous(**form))
