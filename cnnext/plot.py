"""Curves of a training run as a picture."""

from __future__ import annotations

import os
from pathlib import Path

from cnnext.atomic import require_writable, written_beside
from cnnext.train import History


class PlotError(RuntimeError):
    """The picture cannot be made; the text says why."""


def require_plot(path: str | os.PathLike[str]) -> None:
    """See, before the work, that :func:`plot` will be able to write ``path``.

    Raises:
        PlotError: it is not a ``.png``, or matplotlib is missing.
        OSError: the file cannot be written.
    """
    if Path(path).suffix.lower() != ".png":
        raise PlotError(f"the curves are written as PNG: name a file that ends in .png, not {str(path)!r}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise PlotError("plotting needs matplotlib: pip install matplotlib") from error
    require_writable(Path(path))


def plot(history: History, path: str | os.PathLike[str], title: str = "") -> None:
    """Draw loss (of each minibatch, and by epoch) and accuracy against the epoch into a PNG.

    Raises:
        PlotError, OSError: as :func:`require_plot`.
    """
    require_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Agg needs no display, and without pyplot no global state is touched.
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    loss, accuracy = figure.subplots(1, 2)
    epochs = range(1, len(history.epochs) + 1)
    steps = len(history.step_loss) / max(len(history.epochs), 1)
    at = [(step + 1) / steps for step in range(len(history.step_loss))]
    loss.plot(at, history.step_loss, "C0", linewidth=0.5, alpha=0.4, label="train, each minibatch")
    for part, style in (("train", "C0-"), ("test", "C1--")):
        for axes, what in ((loss, "loss"), (accuracy, "accuracy")):
            values = [row[f"{part}_{what}"] for row in history.epochs]
            if None not in values:
                axes.plot(epochs, values, style, marker="o", markersize=3, label=part)
    for axes, what in ((loss, "loss"), (accuracy, "accuracy")):
        axes.set(xlabel="epoch", ylabel=what)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    with written_beside(Path(path)) as beside:
        canvas.print_figure(str(beside), dpi=120, format="png")
