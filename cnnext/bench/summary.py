"""Results in a few figures: geometric means, and what a network gains; for the terminal, the page and the README."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from cnnext.info import table

PASS_NAMES = {
    "forward": "forward",
    "backward_input": "gradient of the input",
    "backward_weight": "gradient of the weight",
    "step": "forward and backward",
}


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean of positive numbers; NaN of none."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def contender(row: dict[str, Any]) -> str:
    """Ours in a row: the fastest of our entries that is not ``auto`` (if there is no other, of those)."""
    names = [name for name in row["ratios"] if not name.startswith("auto ")] or list(row["ratios"])
    return min(names, key=lambda name: row["times"][name][1])


def best_ratio(row: dict[str, Any]) -> list[float]:
    """[lower quartile, median, upper quartile] of the best peer's time over ours."""
    return row["ratios"][contender(row)][row["peer"]]


def timed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those rows that have times."""
    return [row for row in rows if "times" in row]


def by_op(found: dict[str, Any]) -> list[tuple[str, str, str, int, float, float, float]]:
    """(op, pass, dtype, layers, geometric mean, worst, best) of the ratio to the best peer."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in timed(found["layers"]):
        groups.setdefault((row["op"], row["pass"], row["dtype"]), []).append(best_ratio(row)[1])
    return [(*key, len(values), geometric_mean(values), min(values), max(values)) for key, values in groups.items()]


def auto_losses(found: dict[str, Any]) -> list[float]:
    """For each row that has ``auto``: its time over the fastest of ours and torch's in the same layout.

    It chooses for a call and its backward pass, if there is one: what a backward pass takes alone tells nothing of it.
    """
    losses = []
    for row in timed(found["layers"]):
        for name, time in row["times"].items():
            who, _, layout = name.partition(" ")
            if who == "auto" and row["pass"] in ("forward", "step"):
                others = {other: t[1] for other, t in row["times"].items() if other.endswith(layout) and other != name}
                rivals = [t for other, t in others.items() if not other.startswith("compiled")]
                losses.append(time[1] / min(rivals))
    return losses


def milliseconds(times: list[float]) -> str:
    """The median."""
    return f"{times[1] * 1e3:.3f}"


def spread_text(ratio: list[float]) -> str:
    """``1.23× (1.10 to 1.31)``."""
    return f"{ratio[1]:.2f}× ({ratio[0]:.2f} to {ratio[2]:.2f})"


def overhead_table(rows: list[dict[str, Any]]) -> str:
    """The section ``overhead`` for the terminal."""
    lines = [["op", "gradients", "ours µs", "torch µs", "more by", "allowed"]]
    for row in rows:
        micro = [f"{row[name][1] * 1e6:.1f}" for name in ("ours", "torch", "difference")]
        lines.append([row["op"], "yes" if row["gradients"] else "no", *micro, f"{row['limit'] * 1e6:.0f}"])
    return table(lines, right=range(2, 6))


def summary(found: dict[str, Any]) -> str:
    """The results for the terminal."""
    environment = found["environment"]
    parts = [
        f"{environment['processor']}, {environment['threads']} threads, {environment['isa']}, torch "
        + environment["torch"]
    ]
    if found["layers"]:
        rows = [["op", "pass", "dtype", "layers", "mean ratio", "worst", "best"]]
        for op, which, dtype, count, mean, worst, best in by_op(found):
            rows.append([op, which, dtype, str(count), f"{mean:.2f}×", f"{worst:.2f}×", f"{best:.2f}×"])
        parts.append(table(rows, right=range(3, 7)))
    if found["networks"]:
        rows = [["network", "batch", "pass", "ours", "ms", "best peer", "ms", "ratio"]]
        for row in timed(found["networks"]):
            who = contender(row)
            times = [milliseconds(row["times"][name]) for name in (who, row["peer"])]
            rows.append(
                [row["title"], str(row["batch"]), row["pass"], who, times[0], row["peer"], times[1]]
                + [spread_text(best_ratio(row))]
            )
        parts.append(table(rows, right=(1, 4, 6)))
    if found["overhead"]:
        parts.append(overhead_table(found["overhead"]))
    notes = ["ratio: the time of the fastest peer over ours, of our fastest backend and layout; above 1 ours is faster"]
    if found["left_out"]:
        notes.append(f"left out for want of time: {len(found['left_out'])} rows (--minutes)")
    return "\n\n".join([*parts, "\n".join(notes)])
