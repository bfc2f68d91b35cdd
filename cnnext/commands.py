"""What the commands of the command line do, given their parsed options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cnnext import checkpoint, info
from cnnext.atomic import require_writable
from cnnext.backends import CHOOSERS, backend, current, get
from cnnext.compare import compare, our_layers
from cnnext.compare import report as report_comparison
from cnnext.data import FashionMNIST, Loader
from cnnext.plot import plot, require_plot
from cnnext.progress import progress_bar
from cnnext.recipes import RECIPES, Recipe, build
from cnnext.train import History, default_device, fit

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


class UsageError(Exception):
    """What the user asked for cannot be done; the text says why."""


def run_info(options: argparse.Namespace) -> int:
    """Print the report about the installation."""
    print(info.report())
    return 0


def run_compare(options: argparse.Namespace) -> int:
    """Print the table of our layers beside torch's; fails if one breaks the parity rule."""
    recipe = RECIPES[options.model]
    size, batch = options.resize or recipe.size, options.batch_size or recipe.compare_batch
    device = _choose_device(options)
    ours, theirs = (_build(options.model, size, options.seed, layers).to(device) for layers in (None, torch.nn))
    generator = torch.Generator().manual_seed(options.seed)
    images = torch.rand(batch, 1, size, size, generator=generator).to(device)
    with progress_bar(len(our_layers(ours)) + 1, "compare", "layer") as bar:
        rows = compare(ours, theirs, images, options.seconds, bar.update)
    print(f"{recipe.title}: {batch} images of {size}×{size}, float32, {_where(device)}")
    print(report_comparison(rows))
    return 0 if all(row.holds for row in rows) else FAILED


def run_train(options: argparse.Namespace) -> int:
    """Train a model; Ctrl-C keeps the last checkpoint."""
    if options.plot:
        require_plot(options.plot)
    resume = _file_to_resume(options)
    target = options.checkpoint or resume
    settings = _settings(options, checkpoint.read(resume)["config"] if resume else {})
    recipe = RECIPES[settings["model"]]
    if target:
        require_writable(Path(target))
    device = _choose_device(options)
    model = _build(settings["model"], settings["size"], settings["seed"])
    loaders = _loaders(options.data, settings, device)
    epochs = options.epochs or recipe.epochs
    print(_introduction(model, recipe, settings, epochs, device), flush=True)
    finished: list[str] = []

    def report(line: str) -> None:
        finished.append(line)
        print(line, flush=True)

    try:
        history = fit(
            model,
            *loaders,
            epochs=epochs,
            lr=settings["lr"],
            seed=settings["seed"],
            device=device,
            checkpoint=target,
            resume=resume,
            config={key: settings[key] for key in ("model", "batch_size", "size")},
            report=report,
        )
    except KeyboardInterrupt:
        kept = bool(finished) or target == resume
        print(f"\ncnnext: interrupted; {_what_is_kept(target, kept)}", file=sys.stderr)
        return INTERRUPTED
    if not finished:
        print(f"nothing to do: {resume} has its {len(history.epochs)} epochs already")
    _conclude(history, target, options.plot, recipe.title)
    return 0


def _file_to_resume(options: argparse.Namespace) -> str | None:
    if options.resume is None:
        return None
    file = options.resume or options.checkpoint
    if not file:
        raise UsageError("--resume needs a file: its own, or that of --checkpoint")
    return file


def _settings(options: argparse.Namespace, saved: dict[str, Any]) -> dict[str, Any]:
    """What was asked for, else what the resumed run had, else the book's."""
    name = options.model or saved.get("model", "lenet")
    if name not in RECIPES:
        raise UsageError(f"the checkpoint is of a model {name!r}, which `cnnext train` does not know")
    recipe = RECIPES[name]
    asked = {"lr": options.lr, "seed": options.seed, "batch_size": options.batch_size, "size": options.resize}
    usual = {"lr": recipe.lr, "seed": 0, "batch_size": recipe.batch_size, "size": recipe.size}
    chosen = {key: saved.get(key, usual[key]) if value is None else value for key, value in asked.items()}
    return {"model": name, **chosen}


def _build(name: str, size: int, seed: int, layers: Any = None) -> torch.nn.Module:
    try:
        return build(name, size, seed, layers)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _choose_device(options: argparse.Namespace) -> torch.device:
    """Put the backend in force, and return where it runs."""
    backend(options.backend)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no GPU")
    device = torch.device(options.device) if options.device else default_device()
    if options.backend not in CHOOSERS:
        reason = get(options.backend).can_run("conv2d", device, torch.float32)
        if reason:
            raise UsageError(f"--backend {options.backend} cannot run here: {reason}")
    return device


def _loaders(folder: str | None, settings: dict[str, Any], device: torch.device) -> Sequence[Loader]:
    options = {key: settings[key] for key in ("batch_size", "seed")}
    return [
        FashionMNIST(folder, train=train, resize=settings["size"]).loader(device=device, **options)
        for train in (True, False)
    ]


def _where(device: torch.device) -> str:
    if device.type == "cuda":
        return f"backend {current()} on {torch.cuda.get_device_name(device)}"
    return f"backend {current()}, {torch.get_num_threads()} threads"


def _introduction(
    model: torch.nn.Module, recipe: Recipe, settings: dict[str, Any], epochs: int, device: torch.device
) -> str:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size, batch = settings["size"], settings["batch_size"]
    return (
        f"{recipe.title}: {parameters:,} parameters, {_where(device)}\n"
        f"Fashion-MNIST at {size}×{size}: {epochs} epochs, batch size {batch},"
        f" lr {settings['lr']:g}, seed {settings['seed']}"
    )


def _what_is_kept(target: str | None, kept: bool) -> str:
    if not target:
        return "nothing was kept (--checkpoint FILE keeps every epoch)"
    if not kept:
        return f"no epoch was finished, and {target} is as it was"
    return f"{target} holds the last finished epoch; go on with: cnnext train --resume {target}"


def _conclude(history: History, target: str | None, picture: str | None, title: str) -> None:
    if picture:
        plot(history, picture, title)
        print(f"curves: {picture}")
    if target:
        print(f"checkpoint: {target}")
