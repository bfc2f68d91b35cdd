"""The tables in README.md and bench/results/README.md, between their markers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cnnext.bench.results import ResultError
from cnnext.bench.summary import PASS_NAMES, best_ratio, by_op, contender, milliseconds, spread_text, timed
from cnnext.report import views

START, END = "<!-- bench:start -->", "<!-- bench:end -->"
NOTE = (
    "A ratio is the time of the fastest peer over ours, of our fastest backend and layout: above 1 ours is faster. "
    "Medians of runs that take turns, with quartiles."
)
Runs = list[tuple[str, dict[str, Any]]]


def markdown(title: list[str], rows: list[list[str]], left: int = 1) -> str:
    """A table, whose first ``left`` columns are text and the others numbers."""
    line = ["---"] * left + ["---:"] * (len(title) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in [title, line, *rows])


def short(runs: Runs) -> str:
    """For the README: whole networks, and the geometric mean of each op."""
    parts = []
    for _, found in runs:
        parts.append(f"{views.machine(found)}, {found['created'][:10]}:")
        if timed(found["networks"]):
            parts.append(_networks(found))
        if timed(found["layers"]):
            means = views.mean_by(found["layers"], "op", "pass")
            passes = [name for name in PASS_NAMES if any(which == name for _, which in means)]
            rows = [
                [f"`{op}`", *(f"{means[op, name]:.2f}×" if (op, name) in means else "" for name in passes)]
                for op in dict.fromkeys(op for op, _ in means)
            ]
            parts.append(markdown(["geometric mean of the ratios", *(PASS_NAMES[name] for name in passes)], rows))
    return "\n\n".join([*parts, NOTE])


def long(runs: Runs) -> str:
    """For bench/results/README.md: everything but the single layers, which the page has."""
    parts = []
    for name, found in runs:
        about = found["environment"]
        commit = f"commit {about.get('commit', 'unknown')}{', with changes' if about.get('changed') else ''}"
        parts.append(f"### {name}\n\n{views.machine(found)}, {found['created']}, {commit}.")
        if timed(found["networks"]):
            parts.append(_networks(found))
        if timed(found["layers"]):
            parts += [_ops(found), _behind(found)]
        if found["overhead"]:
            parts.append(_overhead(found))
        if found["left_out"]:
            parts.append(f"Left out for want of time: {len(found['left_out'])} rows.")
    return "\n\n".join([*parts, NOTE])


def _networks(found: dict[str, Any]) -> str:
    rows = []
    for row in timed(found["networks"]):
        ours, peer = contender(row), row["peer"]
        times = [milliseconds(row["times"][who]) for who in (ours, peer)]
        rows.append(
            [f"{row['title']}, {row['pass']}", str(row["batch"]), f"{times[0]} ({ours})", f"{times[1]} ({peer})"]
            + [spread_text(best_ratio(row))]
        )
    return markdown(["network", "batch", "ours, ms", "fastest peer, ms", "ratio"], rows)


def _ops(found: dict[str, Any]) -> str:
    rows = [
        [f"`{op}`", PASS_NAMES.get(which, which), dtype, str(count), f"{mean:.2f}×", f"{worst:.2f}×", f"{best:.2f}×"]
        for op, which, dtype, count, mean, worst, best in by_op(found)
    ]
    return markdown(["op", "pass", "dtype", "layers", "geometric mean", "worst", "best"], rows, left=3)


def _behind(found: dict[str, Any], most: int = 10) -> str:
    """The layers in which we are furthest behind."""
    behind = sorted((row for row in timed(found["layers"]) if best_ratio(row)[1] < 1), key=lambda row: best_ratio(row))
    if not behind:
        return "No layer is slower than its fastest peer."
    rows = [
        [row["layer"], row["shape"], PASS_NAMES.get(row["pass"], row["pass"]), row["dtype"]]
        + [spread_text(best_ratio(row))]
        for row in behind[:most]
    ]
    count = f"{len(behind)} of {len(timed(found['layers']))} rows are below 1"
    return f"{count}; furthest:\n\n" + markdown(["layer", "shape", "pass", "dtype", "ratio"], rows, left=4)


def _overhead(found: dict[str, Any]) -> str:
    rows = []
    for row in found["overhead"]:
        micro = [f"{row[name][1] * 1e6:.1f}" for name in ("ours", "torch", "difference")]
        rows.append([f"`{row['op']}`", "with" if row["gradients"] else "without", *micro])
    return markdown(["cost of a call", "gradients", "ours, µs", "torch's, µs", "more by, µs"], rows, left=2)


def replaced(path: Path, text: str) -> str:
    """The contents of ``path`` with ``text`` between its markers.

    Raises:
        ResultError: the file cannot be read, or has not exactly one pair of markers.
    """
    try:
        old = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}") from error
    before, start, rest = old.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end or START in after or END in before + after:
        raise ResultError(f"{path} must have one {START} and after it one {END}")
    return f"{before}{START}\n{text}\n{END}{after}"
