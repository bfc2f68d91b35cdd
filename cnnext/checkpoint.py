"""The state of a training run in a file, so that it can be taken up where it stopped."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch

from cnnext.atomic import written_beside

FORMAT = "cnnext training"
VERSION = 1
_PARTS = {"epoch": int, "model": dict, "optimizer": dict, "random": dict, "history": dict, "config": dict}


class CheckpointError(RuntimeError):
    """The file is not a checkpoint of ours, or not of this run; the text says why."""


def random_state() -> dict[str, Any]:
    """The state of torch's random generators, on the CPU and every GPU."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": gpus}


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what :func:`random_state` returned; GPUs that this machine has not are left out."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available():
        for index, gpu in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(gpu, index)


def save(
    path: str | os.PathLike[str],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    history: dict[str, Any],
    config: dict[str, Any],
) -> None:
    """Write the state after an epoch, beside the file and renamed: a break leaves the last one whole.

    Args:
        path: the file.
        model: its parameters and buffers are kept.
        optimizer: its state is kept.
        history: what was measured so far; ``history["epochs"]`` has one entry for each epoch.
        config: how the run was set up: numbers, texts and None. :func:`load` refuses another one.

    Raises:
        OSError: the file cannot be written.
    """
    state = {
        "format": FORMAT,
        "version": VERSION,
        "epoch": len(history["epochs"]),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": random_state(),
        "history": history,
        "config": config,
    }
    try:
        with written_beside(Path(path)) as beside, beside.open("wb") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError where a write fails
        raise OSError(f"the checkpoint {path} cannot be written: {error}") from error


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state in a checkpoint, on the CPU; no code in the file is run (``weights_only``).

    Raises:
        CheckpointError: it is not there, or is something else.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path} cannot be resumed: there is no such file")
    try:
        with warnings.catch_warnings():  # about pickles that torch did not write: the error says enough
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler meets in a file that anyone may have written
        raise CheckpointError(
            f"{path} is not a checkpoint of cnnext, or is damaged: torch cannot read it ({type(error).__name__})"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a checkpoint of cnnext: it was not written by `cnnext train` or cnnext.train.fit"
        )
    if state.get("version") != VERSION:
        raise CheckpointError(
            f"{path} is a checkpoint of version {state.get('version')}; this cnnext reads version {VERSION}"
        )
    for part, kind in _PARTS.items():
        if not isinstance(state.get(part), kind):
            raise CheckpointError(f"{path} is a checkpoint of cnnext, but its part {part!r} is missing")
    return state


def load(
    path: str | os.PathLike[str],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    config: dict[str, Any],
) -> dict[str, Any]:
    """Put the state in ``path`` into ``model``, ``optimizer`` and the random generators; return its history.

    Raises:
        CheckpointError: it is not a checkpoint of ours, or of a run with another model or ``config``.
    """
    state = read(path)
    for key, value in config.items():
        before = state["config"].get(key, value)
        if before != value:
            raise CheckpointError(f"{path} was trained with {key}={before!r}, not with {key}={value!r}")
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        set_random_state(state["random"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} does not fit this model: {error}") from error
    return state["history"]
