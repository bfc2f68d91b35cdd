"""``cnnext bench``: its options, and what it does with them."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch

from cnnext.atomic import require_writable
from cnnext.backends import AUTO, CHOOSERS, backends, get
from cnnext.bench import results
from cnnext.bench.passes import PASSES
from cnnext.bench.plan import DTYPES, SECTIONS, Plan, Run, failures
from cnnext.bench.summary import summary
from cnnext.commands import FAILED, UsageError
from cnnext.progress import progress_bar
from cnnext.testing.layer_groups import GROUPS
from cnnext.testing.layers import KINDS, layers_of
from cnnext.testing.networks import NETWORKS

EXAMPLES = """examples:
  cnnext bench                                      everything, for a quarter of an hour
  cnnext bench --networks lenet resnet18 --minutes 3
  cnnext bench --ops conv2d --dtypes float32 bfloat16 --passes forward --sections layers
  cnnext bench --module my_model.py:Net --shape 8,3,224,224   a module of yours, layer by layer

A layer is first checked against torch's, then timed in turns with it. The exit code is 1 if a check fails.
`cnnext report FILE` makes a page of the results."""
OPS = ("corr2d", *KINDS.values(), "conv_bn_relu")


def add_options(command: argparse.ArgumentParser, positive: Any, count: Any) -> None:
    """Add the options; ``positive`` and ``count`` are argparse types for a positive number and a whole one."""

    def choose(name: str, choices: Any, default: Any, text: str) -> None:
        said = "all" if default is None else " ".join(default)
        add = command.add_argument
        add(f"--{name}", nargs="+", choices=choices, default=default, metavar="X", help=f"{text} (default: {said})")

    names = [*NETWORKS, *GROUPS]
    choose("networks", names, None, f"whose layers: {', '.join(names)}")
    choose("ops", OPS, None, f"only these: {', '.join(OPS)}")
    choose("passes", PASSES, None, f"of the layers: {', '.join(PASSES)}")
    choose("backends", backends(), None, "ours, that run here")
    choose("dtypes", [*DTYPES, "tf32"], ["float32"], f"{', '.join(DTYPES)}, and tf32 on a GPU")
    choose("layouts", ["NCHW", "NHWC"], ["NCHW", "NHWC"], "of our tensors; torch's best of both is the peer")
    choose("sections", SECTIONS, None, f"parts of the results: {', '.join(SECTIONS)}")
    command.add_argument("--device", choices=["cpu", "cuda"], help="(default: cuda where there is a GPU)")
    command.add_argument("--minutes", type=positive, default=13.0, metavar="X", help="for everything (default: 13)")
    command.add_argument("--batch-size", type=count, metavar="N", help="images (default: the network's)")
    command.add_argument("--compile", action="store_true", help="torch.compile as a further peer; takes minutes more")
    command.add_argument("--both-biases", action="store_true", help="convolutions with a bias and without")
    command.add_argument("--module", metavar="FILE.py:NAME", help="measure this torch.nn.Module instead of networks")
    command.add_argument("--shape", metavar="N,C,H,W", help="of the input of --module")
    command.add_argument(
        "--output", default="bench-results.json", metavar="FILE.json", help="(default: bench-results.json)"
    )


def run_bench(options: argparse.Namespace) -> int:
    """Measure, write the results and print a summary; fails if something broke the parity rule."""
    target = Path(options.output)
    results.require_replaceable(target)
    require_writable(target)
    plan = _plan(options)
    run = Run(plan)
    if run.rows() == 0:
        raise UsageError("nothing to measure: no layer of those networks is of those ops and passes")
    with progress_bar(run.rows(), "bench", "row") as bar:

        def on_row(text: str) -> None:
            bar.set_postfix_str(text)
            bar.update()

        run = Run(plan, on_row)
        found = run()
    results.write(found, target)
    print(summary(found))
    print(f"results: {target}")
    failed = failures(found)
    for line in failed:
        print(f"cnnext: parity broken: {line}", file=sys.stderr)
    return FAILED if failed else 0


def _plan(options: argparse.Namespace) -> Plan:
    device = device_of(options.device)
    if "tf32" in options.dtypes and device.type != "cuda":
        raise UsageError("--dtypes tf32: TF32 is a matter of GPUs, and --device is cpu")
    module = _module(options, device)
    return Plan(
        networks=options.networks or [*NETWORKS, *GROUPS],
        ops=options.ops or [],
        passes=options.passes or PASSES,
        backends=options.backends or _present(device),
        dtypes=options.dtypes,
        layouts=options.layouts,
        sections=[section for section in SECTIONS if section in (options.sections or SECTIONS)],
        device=device,
        minutes=options.minutes,
        batch=options.batch_size,
        compiled=options.compile,
        both_biases=options.both_biases,
        module=module,
        module_layers=tuple(layers_of(module[1], module[2])) if module else (),
    )


def device_of(name: str | None) -> torch.device:
    """The device of that name; the GPU where there is one, unless said."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no GPU")
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def _present(device: torch.device) -> list[str]:
    """Our backends that run on the device, and what chooses among them."""
    names = [name for name in backends() if name not in (*CHOOSERS, "torch")]
    present = [name for name in names if get(name).can_run("conv2d", device, torch.float32) is None]
    return [*present, AUTO]


def _module(options: argparse.Namespace, device: torch.device) -> tuple[str, torch.nn.Module, torch.Tensor] | None:
    if options.module is None:
        if options.shape is not None:
            raise UsageError("--shape is that of the input of --module, which is not given")
        return None
    if options.shape is None:
        raise UsageError("--module needs the shape of its input: --shape N,C,H,W")
    shape = shape_of(options.shape)
    model = load_module(options.module).to(device)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(device)
    try:
        with torch.no_grad():
            output = model.eval()(images)
    except Exception as error:  # whatever the user's module raises
        raise UsageError(f"--module {options.module} does not accept --shape {options.shape}: {error}") from error
    if not isinstance(output, torch.Tensor):
        raise UsageError(f"--module {options.module} returns {type(output).__name__}, which is not one tensor")
    return options.module.rpartition(":")[2], model, images


def shape_of(text: str) -> tuple[int, ...]:
    """The sizes in ``N,C,H,W``."""
    try:
        shape = tuple(int(word) for word in text.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UsageError(f"--shape {text!r} is not of the form N,C,H,W, of positive whole numbers")
    return shape


def load_module(text: str) -> torch.nn.Module:
    """The module that ``path.py:Name`` names: an instance, or a class or function that is called for one.

    A class gets the values of the file's ``get_init_inputs()`` where it has that function, as in KernelBench.

    Raises:
        UsageError: the file cannot be imported, has no such name, or gives no module.
    """
    path, _, name = text.rpartition(":")
    if not path or not name:
        raise UsageError(f"--module {text!r} is not of the form FILE.py:NAME")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path) if Path(path).is_file() else None
    if spec is None or spec.loader is None:
        raise UsageError(f"--module {text}: {path} is no file of Python code")
    file = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, file)
    try:
        spec.loader.exec_module(file)
        if not hasattr(file, name):
            raise UsageError(f"--module {text}: {path} has no {name!r}")
        found = getattr(file, name)
        if not isinstance(found, torch.nn.Module):
            found = found(*getattr(file, "get_init_inputs", list)())
    except UsageError:
        raise
    except Exception as error:  # whatever the user's file raises
        raise UsageError(f"--module {text} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(found, torch.nn.Module):
        raise UsageError(f"--module {text}: {name} is no torch.nn.Module and makes none, but {type(found).__name__}")
    return found
