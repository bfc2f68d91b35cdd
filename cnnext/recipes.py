"""The chapters' models as the book trains them on Fashion-MNIST: what ``--model`` names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from cnnext import models


@dataclass(frozen=True)
class Recipe:
    """A model and the settings that the book trains it with.

    Attributes:
        title: what it is.
        build: makes the model; its argument ``layers`` says from whose layers.
        lr: learning rate.
        size: height and width of the images.
        batch_size: images in a minibatch.
        epochs: passes over the training set.
        compare_batch: images for ``cnnext compare``, so few that float64 and every repetition take seconds.
    """

    title: str
    build: Callable[..., models.Model]
    lr: float
    size: int
    batch_size: int = 128
    epochs: int = 10
    compare_batch: int = 4


RECIPES = {
    "lenet": Recipe("LeNet-5 (7.6)", models.LeNet, 0.1, 28, compare_batch=128),
    "vgg11": Recipe("VGG-11 (8.2)", partial(models.VGG, models.VGG11), 0.01, 224),
    "vgg11-slim": Recipe("VGG-11, a quarter as wide (8.2)", partial(models.VGG, models.VGG11_SLIM), 0.01, 224),
    "resnet18": Recipe("ResNet-18 (8.6)", models.ResNet18, 0.01, 96, compare_batch=16),
    "resnext": Recipe("ResNeXt (8.6)", models.ResNeXt, 0.01, 96, compare_batch=16),
}


def build(name: str, size: int | None = None, seed: int = 0, layers: Any = None) -> models.Model:
    """The model of that name for grey images of ``size`` × ``size``, initialised from ``seed``.

    Args:
        name: a key of :data:`RECIPES`.
        size: the recipe's unless said.
        seed: of torch's generator; the same weights whoever computes the layers.
        layers: a module with the layers' classes: ``cnnext.nn`` unless said, or ``torch.nn``.

    Raises:
        ValueError: the images are too small for the model.
    """
    size = RECIPES[name].size if size is None else size
    torch.manual_seed(seed)
    try:
        return RECIPES[name].build(layers=layers).init((1, 1, size, size))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"images of {size}×{size} do not fit {name}: {error}") from error


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says so; on the CPU only its text does."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
