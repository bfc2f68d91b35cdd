"""Result files as the page, the pictures and the tables show them: every figure they print is reckoned here, once."""

from __future__ import annotations

import math
from typing import Any

from cnnext.bench.summary import PASS_NAMES, best_ratio, contender, geometric_mean, timed
from cnnext.testing.layer_groups import GROUPS

WIDEST = 4.0
"""The ratio at which a bar is as long as it gets, in both directions."""


def layer_view(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the section ``layers``: its parity, and if it has times, the fastest of ours beside the best peer."""
    view = {name: row[name] for name in ("network", "layer", "op", "shape", "count", "dtype")}
    view.update(pass_name=PASS_NAMES.get(row["pass"], row["pass"]), parity=worst_parity(row), timed="times" in row)
    if not view["timed"]:
        return view
    ours = contender(row)
    seconds = row["times"][ours][1]
    memory = row.get("peak_bytes", {})
    return {
        **view,
        "ratio": best_ratio(row),
        "ours": ours,
        "ours_seconds": seconds,
        "peer": row["peer"],
        "peer_seconds": row["times"][row["peer"]][1],
        "flop_rate": row["flops"] / seconds,
        "byte_rate": row["bytes"] / seconds,
        "of_roof": row["roof_seconds"] / seconds,
        "ours_peak_bytes": memory.get(ours),
        "peer_peak_bytes": memory.get(row["peer"]),
        "host_seconds": row.get("host_seconds", {}).get(ours),
    }


def worst_parity(row: dict[str, Any]) -> dict[str, Any] | None:
    """The entry of a row that is nearest to the error that it is allowed; None where nothing of ours ran."""
    shares = [
        {**one, "who": who, "share": one["error"] / one["allowed"] if one["allowed"] else float(one["error"] > 0)}
        for who, one in row["parity"].items()
    ]
    return max(shares, key=lambda one: (not one["holds"], one["share"]), default=None)


def sums_of_layers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each network, pass and dtype the times of its layers, each as often as the network has it."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in timed(rows):
        if row["network"] not in GROUPS:
            groups.setdefault((row["network"], row["pass"], row["dtype"]), []).append(row)
    sums = []
    for (network, which, dtype), members in groups.items():
        ours = sum(row["count"] * row["times"][contender(row)][1] for row in members)
        peer = sum(row["count"] * row["times"][row["peer"]][1] for row in members)
        name = PASS_NAMES.get(which, which)
        layers = sum(row["count"] for row in members)
        sums.append(
            {"network": network, "pass_name": name, "dtype": dtype, "layers": layers}
            | {"ours_seconds": ours, "peer_seconds": peer, "ratio": peer / ours}
        )
    return sums


def network_view(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the section ``networks``: all who were timed, the fastest first."""
    view = {name: row[name] for name in ("network", "title", "batch", "dtype", "apart")}
    view.update({"pass": row["pass"], "agree": row.get("agree"), "absent": row.get("absent", {}), "entries": []})
    if "times" not in row:
        return view
    slowest = max(time[1] for time in row["times"].values())
    entries = [
        {"who": who, "seconds": time[1], "low": time[0], "high": time[2], "part": time[1] / slowest}
        | {"ours": who in row["ratios"], "peak_bytes": row.get("peak_bytes", {}).get(who)}
        for who, time in sorted(row["times"].items(), key=lambda item: item[1][1])
    ]
    return {**view, "entries": entries, "ratio": best_ratio(row), "ours": contender(row), "peer": row["peer"]}


def refusals(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """(backend and reason, rows) of what could not run."""
    counts: dict[str, int] = {}
    for row in rows:
        for who, reason in row.get("refused", {}).items():
            text = f"{who.partition(' ')[0]}: {reason}"
            counts[text] = counts.get(text, 0) + 1
    return list(counts.items())


def bar(ratio: float) -> float:
    """Where a ratio stands on the logarithmic scale of the bars, in percent: 50 is a ratio of one."""
    bounded = min(max(ratio, 1 / WIDEST), WIDEST)
    return 50 + 50 * math.log(bounded) / math.log(WIDEST)


def mean_by(rows: list[dict[str, Any]], *names: str) -> dict[tuple[str, ...], float]:
    """The geometric mean of the ratio to the best peer, of the rows that are alike in ``names``."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for row in timed(rows):
        groups.setdefault(tuple(row[name] for name in names), []).append(best_ratio(row)[1])
    return {key: geometric_mean(values) for key, values in groups.items()}


def duration(seconds: float) -> str:
    """Three digits: ``12.3 ms``, ``4.56 µs``."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{digits(seconds * factor)} {unit}"
    return f"{digits(seconds * 1e6)} µs"


def quantity(value: float, unit: str) -> str:
    """Three digits with a prefix: ``1.23 GB``."""
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= factor:
            return f"{digits(value / factor)} {prefix}{unit}"
    return f"{digits(value)} {unit}"


def digits(value: float) -> str:
    """A number with three digits that count."""
    size = abs(value)
    return f"{value:.{0 if size >= 100 else 1 if size >= 10 else 2}f}"


def machine(found: dict[str, Any]) -> str:
    """Where a file was measured, in a line."""
    about = found["environment"]
    gpu = about.get("gpu")
    where = gpu["name"] if gpu else f"{about.get('processor', 'unknown processor')}, {about.get('isa', '')}"
    return f"{where}, {about.get('threads', '?')} threads, torch {about.get('torch', '?')}"
