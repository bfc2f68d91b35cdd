"""The command line: ``cnnext train``, ``compare``, ``bench``, ``report``, ``tune`` and ``info``."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import cnnext
from cnnext.backends import FIRST, backends
from cnnext.bench import command as bench
from cnnext.bench import tune
from cnnext.bench.results import ResultError
from cnnext.checkpoint import CheckpointError
from cnnext.commands import (
    BAD_INPUT,
    FAILED,
    INTERRUPTED,
    UsageError,
    run_compare,
    run_info,
    run_train,
)
from cnnext.data import DataError
from cnnext.plot import PlotError
from cnnext.recipes import RECIPES, is_out_of_memory
from cnnext.report import command as report
from cnnext.train import TrainingError

EXAMPLES = """examples:
  cnnext train --model lenet --plot lenet.png   train LeNet on Fashion-MNIST, as in the book
  cnnext compare --model lenet                  each layer beside torch's: error and speed
  cnnext bench --minutes 3                      every layer of seven networks
  cnnext report bench-results.json              a page and pictures of what bench measured
  cnnext tune resnet18                          find the fastest backend of each of its layers
  cnnext info                                   what is built, and which backend runs which op

`cnnext COMMAND --help` tells the options of a command."""

TRAIN_EXAMPLES = """examples:
  cnnext train                                             LeNet, ten epochs, as in the book
  cnnext train --model resnet18 --epochs 1 --resize 64
  cnnext train --checkpoint lenet.pt --plot lenet.png      keep every epoch, draw the curves
  cnnext train --resume lenet.pt --epochs 20               go on to twenty epochs
  cnnext train --backend torch                             the same on PyTorch's own layers

Ctrl-C leaves the checkpoint of the last finished epoch. The data comes from --data, $CNNEXT_DATA, cnnext's
cache or Debian's package dataset-fashion-mnist; else it is downloaded once."""

COMPARE_EXAMPLES = """examples:
  cnnext compare                                  LeNet's layers, 128 images
  cnnext compare --model resnet18 --batch-size 8
  cnnext compare --model vgg11 --seconds 5        longer, hence steadier, times

The exit code is 1 if a layer breaks the parity rule."""

INFO_EXAMPLES = """examples:
  cnnext info
  CNNEXT_ISA=avx2 cnnext info                     as on a machine without AVX-512"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0, 1 for a failure, 2 for bad input, 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("\ncnnext: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (UsageError, DataError, PlotError, CheckpointError, ResultError, OSError) as error:
        return _complain(error, BAD_INPUT)
    except TrainingError as error:
        return _complain(error, FAILED)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return _complain("out of memory: try a smaller --batch-size or --resize", FAILED)


def _complain(text: object, code: int) -> int:
    print(f"cnnext: error: {text}", file=sys.stderr)
    return code


def _number(kind: Callable[[str], Any], holds: Callable[[Any], bool], text: str) -> Callable[[str], Any]:
    """An argparse type that takes the finite numbers for which ``holds``."""

    def parse(word: str) -> Any:
        try:
            value = kind(word)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not holds(value):
            raise argparse.ArgumentTypeError(f"{word!r} is not {text}")
        return value

    return parse


_count = _number(int, lambda value: value >= 1, "a positive whole number")
_positive = _number(float, lambda value: value > 0, "a positive number")
_seed = _number(int, lambda value: 0 <= value < 2**63, "a whole number in [0, 2^63)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cnnext",
        description="Convolutional networks on hand-written kernels: train and measure the book's models.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cnnext {cnnext.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], help: str, examples: str) -> Any:
        command = commands.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        return command

    _add_train_options(add("train", run_train, "train a model on Fashion-MNIST", TRAIN_EXAMPLES))
    _add_compare_options(add("compare", run_compare, "measure a model's layers beside torch's", COMPARE_EXAMPLES))
    bench.add_options(
        add("bench", bench.run_bench, "measure layers, networks and the cost of a call beside torch's", bench.EXAMPLES),
        _positive,
        _count,
    )
    report.add_options(
        add("report", report.run_report, "make a page, pictures and tables of results", report.EXAMPLES), _positive
    )
    tune.add_options(add("tune", tune.run_tune, "measure beforehand for the backend `auto`", tune.EXAMPLES))
    add("info", run_info, "tell versions, what is built, and which backend runs which op", INFO_EXAMPLES)
    return parser


def _usual(what: str) -> str:
    """The defaults of an option, from the recipes' attribute ``what``."""
    values: dict[Any, list[str]] = {}
    for name, recipe in RECIPES.items():
        values.setdefault(getattr(recipe, what), []).append(name)
    texts = [f"{value} for {', '.join(names)}" for value, names in values.items()]
    return f"(default: {'; '.join(texts) if len(texts) > 1 else next(iter(values))})"


def _add_train_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", choices=list(RECIPES), help="what to train (default: lenet)")
    _add_where(command)
    command.add_argument("--epochs", type=_count, metavar="N", help=f"passes over the data {_usual('epochs')}")
    command.add_argument("--lr", type=_positive, metavar="X", help=f"learning rate {_usual('lr')}")
    command.add_argument("--batch-size", type=_count, metavar="N", help=f"images {_usual('batch_size')}")
    command.add_argument("--resize", type=_count, metavar="N", help=f"size of the images {_usual('size')}")
    command.add_argument("--seed", type=_seed, metavar="N", help="of weights, order and dropout (default: 0)")
    command.add_argument("--checkpoint", metavar="FILE", help="write the state here after every epoch")
    command.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="FILE",
        help="go on from this checkpoint, with its settings (default: that of --checkpoint)",
    )
    command.add_argument("--plot", metavar="FILE.png", help="draw loss and accuracy (needs matplotlib)")
    command.add_argument("--data", metavar="FOLDER", help="of the four *-ubyte.gz files, or where to put them")


def _add_compare_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", choices=list(RECIPES), default="lenet", help="(default: lenet)")
    _add_where(command)
    command.add_argument("--batch-size", type=_count, metavar="N", help=f"images {_usual('compare_batch')}")
    command.add_argument("--resize", type=_count, metavar="N", help="size of the images (default: the model's)")
    command.add_argument("--seed", type=_seed, default=0, metavar="N", help="of weights and images (default: 0)")
    command.add_argument("--seconds", type=_positive, default=1.0, metavar="X", help="to spend on a layer (default: 1)")


def _add_where(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--backend", choices=list(backends()), default=FIRST, help=f"who runs the layers (default: {FIRST})"
    )
    command.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        help="(default: cuda where there is a GPU and the backend runs on it)",
    )
