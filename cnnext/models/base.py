"""What the models share: one ``net``, the book's initialisation and its summary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

import cnnext.nn


def init_cnn(module: torch.nn.Module) -> None:
    """Xavier-uniform weights for Linear and Conv2d, as the book's function of this name; use it with ``apply``.

    Source: "Dive into Deep Learning", section 7.6.1.
    """
    lazy = isinstance(getattr(module, "weight", None), torch.nn.UninitializedParameter)
    if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) and not lazy:
        torch.nn.init.xavier_uniform_(module.weight)


class Model(torch.nn.Module):
    """A model that is one ``torch.nn.Sequential`` called ``net``; it learns its input channels at the first call."""

    net: torch.nn.Sequential

    def forward(self, X: torch.Tensor) -> torch.Tensor:  # noqa: N803
        """Images (N, C, H, W) to scores (N, classes)."""
        return self.net(X)

    def layer_summary(self, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
        """Print and return, for each layer of ``net``, its class and the shape it makes of an input of ``shape``.

        The model is left as it was: the input is random from a generator of its own, the layers run in evaluation
        mode, and the mode is restored. (Layers that are still lazy learn their sizes.)
        """
        summary = []
        with self._trial(shape) as X:  # noqa: N806
            for layer in self.net:
                X = layer(X)  # noqa: N806
                summary.append((type(layer).__name__, tuple(X.shape)))
                print(f"{type(layer).__name__} output shape:\t {X.shape}")
        return summary

    def init(self, shape: tuple[int, ...]) -> Model:
        """Learn the sizes from one input of ``shape`` and initialise as the book does; returns the model."""
        with self._trial(shape) as X:  # noqa: N806
            self(X)
        return self.apply(init_cnn)

    @contextmanager
    def _trial(self, shape: tuple[int, ...]) -> Iterator[torch.Tensor]:
        """An input where the parameters lie, and evaluation mode without gradients until the modes come back."""
        modes = {module: module.training for module in self.modules()}
        like = next(self.parameters())
        X = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype)  # noqa: N806
        try:
            with torch.no_grad():
                self.eval()
                yield X
        finally:
            for module, mode in modes.items():
                module.training = mode


def layers_from(layers: Any) -> Any:
    """The module that layers' classes come from: cnnext.nn unless said."""
    return cnnext.nn if layers is None else layers
