"""The pictures: ratios, roofline, networks. Drawn once by matplotlib, as PNG and as SVG for the page."""

from __future__ import annotations

import io
import re
from typing import Any

from cnnext.bench.summary import PASS_NAMES, best_ratio, contender, timed
from cnnext.report.views import mean_by, network_view

INK, FAINT, GRID, PAPER = "#1b1e23", "#5d6470", "#d5d8de", "#fdfdfc"
OURS, PEER = "#2a6fb0", "#b5651f"
HUES = ("#2a6fb1", "#b5651e", "#3b8a4f", "#8a56a8", "#b23a48", "#6b7280", "#0f8b8d")
VARIABLES = {
    INK: "--ink",
    FAINT: "--faint",
    GRID: "--grid",
    PAPER: "--paper",
    OURS: "--ours",
    PEER: "--peer",
    **{hue: f"--hue-{number}" for number, hue in enumerate(HUES)},
}
"""What a colour is called in the page's style sheet, which has another value for it in the dark."""
MARKS = ("o", "s", "^", "D", "v", "P", "X")


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor=PAPER)


def _style(axes: Any) -> None:
    axes.set_facecolor(PAPER)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelcolor=INK, which="both")
    for spine in axes.spines.values():
        spine.set_visible(False)
    for label in (axes.title, axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)


def _legend(axes: Any, **options: Any) -> None:
    axes.legend(frameon=False, labelcolor=INK, fontsize=8, **options)


def ratios(found: dict[str, Any]) -> Any:
    """For each op and pass the ratio of every layer to the best peer, as points, and their geometric mean."""
    rows = timed(found["layers"])
    groups = mean_by(rows, "op", "pass")
    figure = _figure(8, 1.1 + 0.27 * len(groups))
    axes = figure.subplots()
    for y, ((op, which), mean) in enumerate(groups.items()):
        values = [best_ratio(row)[1] for row in rows if (row["op"], row["pass"]) == (op, which)]
        for colour, side in ((OURS, [x for x in values if x >= 1]), (PEER, [x for x in values if x < 1])):
            axes.plot(side, [y] * len(side), "o", color=colour, markersize=4, alpha=0.45, markeredgewidth=0)
        axes.plot([mean], [y], "|", color=INK, markersize=13, markeredgewidth=2)
    axes.axvline(1, color=FAINT, linewidth=1)
    axes.set_yticks(range(len(groups)), [f"{op}, {PASS_NAMES.get(which, which)}" for op, which in groups], fontsize=8)
    axes.invert_yaxis()
    _logarithmic(axes)
    axes.set_xlabel("best peer's time over ours, each layer and their geometric mean")
    _style(axes)
    return figure


def _logarithmic(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.5), max(high, 2.0))
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def roofline(found: dict[str, Any]) -> Any:
    """For each dtype the rate of operations of ours against operations per byte, under the measured roof."""
    rows = timed(found["layers"])
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    ops = list(dict.fromkeys(row["op"] for row in rows))
    figure = _figure(8, 4.4 * len(dtypes))
    for axes, dtype in zip(figure.subplots(len(dtypes), squeeze=False).flat, dtypes, strict=True):
        members = [row for row in rows if row["dtype"] == dtype and row["flops"]]
        _roof(axes, found["roof"], dtype, [row["flops"] / row["bytes"] for row in members])
        for number, op in enumerate(ops):
            points = [
                (row["flops"] / row["bytes"], row["flops"] / row["times"][contender(row)][1])
                for row in members
                if row["op"] == op
            ]
            if points:
                style = {"color": HUES[number % len(HUES)], "marker": MARKS[number % len(MARKS)]}
                axes.plot(*zip(*points, strict=True), linestyle="", markersize=5, alpha=0.75, label=op, **style)
        axes.set(xscale="log", yscale="log", title=dtype)
        axes.set_xlabel("operations for each byte that must be moved")
        axes.set_ylabel("operations a second")
        _style(axes)
        _legend(axes, loc="lower right")
    return figure


def _roof(axes: Any, roof: dict[str, Any], dtype: str, intensities: list[float]) -> None:
    peak = roof["flops"].get(dtype) or roof["flops"].get("float32")
    if not peak or not roof.get("copy") or not intensities:
        return
    low, high = min(intensities) / 2, max(intensities) * 2
    marks = [low * (high / low) ** (i / 200) for i in range(201)]
    fastest, (size, slowest) = max(rate for _, rate in roof["copy"]), roof["copy"][-1]
    for rate, dashes, text in ((fastest, "-", "roof, in a cache"), (slowest, "--", f"roof, {size / 1e6:.0f} MB")):
        axes.plot(marks, [min(peak, x * rate) for x in marks], dashes, color=FAINT, linewidth=1.2, label=text)


def networks(found: dict[str, Any]) -> Any:
    """Every contender's time for each network and pass, over the best peer's."""
    views = [view for view in map(network_view, found["networks"]) if view["entries"]]
    figure = _figure(8, 0.9 + sum(0.35 + 0.19 * len(view["entries"]) for view in views))
    axes = figure.subplots()
    y, ticks, labels = 0.0, [], []
    for view in views:
        best = min(entry["seconds"] for entry in view["entries"] if entry["who"] == view["peer"])
        axes.text(0, y, f" {view['title']}, {view['pass']}, batch {view['batch']}", color=INK, fontsize=8, va="center")
        y += 1
        for entry in view["entries"]:
            axes.barh(y, entry["seconds"] / best, 0.75, color=OURS if entry["ours"] else PEER)
            ticks.append(y)
            labels.append(entry["who"])
            y += 1
        y += 0.6
    axes.set_yticks(ticks, labels, fontsize=7)
    axes.set_ylim(y - 0.6, -1)  # from above; the margin that is usual is a twentieth of the height
    axes.axvline(1, color=FAINT, linewidth=1)
    axes.set_xlabel("time over the best peer's: left of 1 is faster; blue ours, orange the peers")
    _style(axes)
    return figure


def png(figure: Any) -> bytes:
    """The picture for a light background."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    file = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(file, dpi=130, format="png", facecolor=PAPER)
    return file.getvalue()


def svg(figure: Any, name: str, title: str) -> str:
    """The picture for the page: text as text, colours by the style sheet's variables, ``name`` in all ids."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        FigureCanvasSVG(figure).print_figure(file, format="svg", metadata={"Date": None}, facecolor=PAPER)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="(\w+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="|url\()#(\w+)', rf"\1#{name}-\2", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


DRAWN = {
    "ratios": ("layers", ratios, "Ratio of every layer to its best peer"),
    "roofline": ("layers", roofline, "Roofline"),
    "networks": ("networks", networks, "Times of whole networks"),
}
"""Name of a picture, the section that it shows, the function that draws it, and its title."""


def draw(found: dict[str, Any], name: str) -> Any | None:
    """The picture of that name, or None if the file has nothing for it."""
    section, function, _ = DRAWN[name]
    return function(found) if timed(found[section]) else None


__all__ = ["DRAWN", "VARIABLES", "draw", "png", "svg"]
