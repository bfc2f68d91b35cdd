"""Train a classifier as the chapters do: stochastic gradient descent on the cross-entropy."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Sized
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from cnnext import checkpoint as _checkpoint
from cnnext.atomic import require_writable
from cnnext.backends import CHOOSERS, current, get
from cnnext.progress import progress_bar

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


class TrainingError(RuntimeError):
    """Training cannot go on; the text says why."""


@dataclass
class History:
    """What was measured.

    Attributes:
        epochs: one dict for each epoch: ``train_loss`` and ``train_accuracy`` (means over the epoch, while
            the weights change), ``test_loss`` and ``test_accuracy`` (after it; None without a test set),
            ``images_per_second`` (of training).
        step_loss: the loss of every minibatch.
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    step_loss: list[float] = field(default_factory=list)


def default_device() -> torch.device:
    """The GPU, where there is one and the backend in force runs on it; else the CPU."""
    gpu = torch.device("cuda")
    if not torch.cuda.is_available():
        return torch.device("cpu")
    runs = current() in CHOOSERS or get(current()).can_run("conv2d", gpu, torch.float32) is None
    return gpu if runs else torch.device("cpu")


def fit(
    model: torch.nn.Module,
    train_loader: Batches,
    test_loader: Batches | None = None,
    *,
    epochs: int = 10,
    lr: float = 0.1,
    seed: int = 0,
    device: torch.device | str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    config: dict[str, Any] | None = None,
    progress: bool = True,
    report: Callable[[str], None] | None = None,
) -> History:
    """Train ``model`` in place.

    Args:
        model: from (N, C, H, W) to logits (N, classes); its lazy layers must have been run once.
        train_loader: minibatches (images, targets int64 (N,)), iterated once an epoch. If it has an attribute
            ``epoch``, that is set to the number of the epoch first.
        test_loader: minibatches to measure on after each epoch.
        epochs: how many in all, those of a resumed run included.
        lr: learning rate.
        seed: of torch's random generators (dropout), set at the start; the orders come from the loader.
        device: where to train; :func:`default_device` unless said.
        checkpoint: file to write after each epoch.
        resume: checkpoint to go on from. On one machine the result is bit for bit that of a run without a
            break, as far as the layers are deterministic (all are on the CPU).
        config: further settings of the run, kept in the checkpoint; one that differs is not resumed.
        progress: show a bar on a terminal.
        report: called with one line after each epoch.

    Returns:
        The measurements of all epochs.

    Raises:
        ValueError: ``epochs`` or ``lr`` make no sense, or the model has uninitialised layers.
        CheckpointError: ``resume`` is not a checkpoint of such a run.
        OSError: ``checkpoint`` cannot be written.
        TrainingError: the loss is no longer finite; the checkpoint is that of the epoch before.
    """
    _require_sensible(model, epochs, lr)
    device = default_device() if device is None else torch.device(device)
    settings = {"lr": lr, "seed": seed, **(config or {})}
    if checkpoint is not None:
        require_writable(Path(checkpoint))
    model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    torch.manual_seed(seed)
    history = History()
    if resume is not None:
        history = History(**_checkpoint.load(resume, model, optimizer, settings))
    steps = len(train_loader) if isinstance(train_loader, Sized) else None
    for epoch in range(len(history.epochs), epochs):
        if hasattr(train_loader, "epoch"):
            train_loader.epoch = epoch
        with progress_bar(steps, f"epoch {epoch + 1}/{epochs}", "batch", progress) as bar:
            row, losses = _train_epoch(model, train_loader, optimizer, device, bar)
        if not math.isfinite(row["train_loss"]):
            raise TrainingError(
                f"the loss became {row['train_loss']} in epoch {epoch + 1}: lower the learning rate (lr={lr})"
            )
        if test_loader is not None:
            row["test_loss"], row["test_accuracy"] = evaluate(model, test_loader, device)
        history.epochs.append(row)
        history.step_loss += losses
        if checkpoint is not None:
            _checkpoint.save(checkpoint, model, optimizer, asdict(history), settings)
        if report is not None:
            report(describe(row, epoch + 1, epochs))
    return history


@torch.no_grad()
def evaluate(model: torch.nn.Module, loader: Batches, device: torch.device | str | None = None) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over ``loader``, in evaluation mode; the model's mode is put back."""
    device = default_device() if device is None else torch.device(device)
    training = model.training
    model.eval()
    tally = _Tally()
    try:
        for images, targets in loader:
            targets = targets.to(device)
            logits = model(images.to(device))
            tally.add(torch.nn.functional.cross_entropy(logits, targets), logits, targets)
    finally:
        model.train(training)
    loss, accuracy, _ = tally.means()
    return loss, accuracy


def describe(row: dict[str, Any], epoch: int, epochs: int) -> str:
    """One line about an epoch of :class:`History`."""
    line = f"epoch {epoch:{len(str(epochs))}}/{epochs}  loss {row['train_loss']:.4f}"
    line += f"  accuracy {row['train_accuracy']:.4f}"
    if row["test_loss"] is not None:
        line += f"  test loss {row['test_loss']:.4f}  test accuracy {row['test_accuracy']:.4f}"
    return f"{line}  {row['images_per_second']:.0f} images/s"


class _Tally:
    """Losses and hits, left on the device until they are asked for: reading one waits for the GPU."""

    def __init__(self) -> None:
        self._losses: list[torch.Tensor] = []
        self._hits: list[torch.Tensor] = []
        self._sizes: list[int] = []

    def add(self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> None:
        self._losses.append(loss.detach())
        self._hits.append((logits.detach().argmax(1) == targets).sum())
        self._sizes.append(targets.shape[0])

    @property
    def images(self) -> int:
        return sum(self._sizes)

    def means(self) -> tuple[float, float, list[float]]:
        """Mean loss, accuracy, and the loss of each minibatch."""
        if not self._sizes:
            raise ValueError("the loader gave no minibatch")
        losses = torch.stack(self._losses).double().cpu()
        sizes = torch.tensor(self._sizes, dtype=torch.float64)
        hits = int(torch.stack(self._hits).sum())
        return float((losses * sizes).sum() / sizes.sum()), hits / self.images, losses.tolist()


def _train_epoch(
    model: torch.nn.Module,
    loader: Batches,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    bar: Any,
) -> tuple[dict[str, Any], list[float]]:
    model.train()
    tally = _Tally()
    start = shown = time.perf_counter()
    for images, targets in loader:
        targets = targets.to(device)
        optimizer.zero_grad()
        logits = model(images.to(device))
        loss = torch.nn.functional.cross_entropy(logits, targets)
        loss.backward()
        optimizer.step()
        tally.add(loss, logits, targets)
        bar.update()
        now = time.perf_counter()
        if not bar.disable and now - shown > 0.5:
            shown = now
            bar.set_postfix_str(f"loss {loss.item():.4f}, {tally.images / (now - start):.0f} images/s")
    mean_loss, accuracy, losses = tally.means()  # waits for the device
    row = {
        "train_loss": mean_loss,
        "train_accuracy": accuracy,
        "test_loss": None,
        "test_accuracy": None,
        "images_per_second": tally.images / (time.perf_counter() - start),
    }
    return row, losses


def _require_sensible(model: torch.nn.Module, epochs: int, lr: float) -> None:
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs must be a positive int, but got {epochs!r}")
    if not (isinstance(lr, (int, float)) and math.isfinite(lr) and lr > 0):
        raise ValueError(f"lr must be a positive number, but got {lr!r}")
    lazy = [name for name, value in model.named_parameters() if torch.nn.parameter.is_lazy(value)]
    if lazy:
        raise ValueError(f"run the model once on a minibatch before fit: {lazy[0]} has no shape yet")
