"""One page that holds everything: no other file, no network."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from cnnext.bench.summary import PASS_NAMES, auto_losses, by_op
from cnnext.report import views
from cnnext.report.kernels import Table

GENERATOR = "cnnext report"
CONTENTS = {
    "networks": "networks",
    "ops": "by op",
    "roofline": "roofline",
    "sums": "sums",
    "layers": "every layer",
    "parity": "accuracy",
    "overhead": "cost of a call",
    "environment": "environment",
}


def render(
    runs: Sequence[tuple[str, Mapping[str, Any]]], pictures: Sequence[Mapping[str, str]], kernels: list[Table]
) -> str:
    """The page as text.

    Args:
        runs: names and contents of result files.
        pictures: for each run the SVG text of its ``ratios`` and ``roofline``.
        kernels: tables that stand in for what a GPU would measure; empty for none.
    """
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        bar=views.bar,
        duration=views.duration,
        quantity=views.quantity,
        bytes=lambda count: "" if count is None else views.quantity(count, "B"),
    )
    shown = [_run(f"run{i}", name, found, pictures[i]) for i, (name, found) in enumerate(runs)]
    style, script = (markupsafe.Markup(_text(f"page.{suffix}")) for suffix in ("css", "js"))
    return environment.from_string(_text("page.html")).render(
        runs=shown, kernels=kernels, style=style, script=script, generator=GENERATOR
    )


def _text(name: str) -> str:
    return resources.files("cnnext.report").joinpath(name).read_text(encoding="utf-8")


def _run(id: str, name: str, found: Mapping[str, Any], pictures: Mapping[str, str]) -> dict[str, Any]:
    rows = found["layers"]
    run: dict[str, Any] = {
        "id": id,
        "name": name,
        "machine": views.machine(dict(found)),
        "created": found["created"],
        "environment": {"commit": "unknown", "changed": False, **found["environment"]},
        "networks": [views.network_view(row) for row in found["networks"]],
        "ops": _ops(found),
        "auto": _auto(found),
        "sums": views.sums_of_layers(rows),
        "layers": [views.layer_view(row) for row in rows],
        "parity": _parity(rows),
        "overhead": [{"limit": None, **row} for row in found["overhead"]],
        "host": any("host_seconds" in row for row in rows),
        "facts": list(_facts(found)),
        "refusals": views.refusals(rows),
        "left_out": found["left_out"],
        "pictures": {"ratios": "", "roofline": "", **pictures},
    }
    of_layers = ("roofline", "sums", "layers", "parity")
    run["contents"] = [
        (key, title) for key, title in CONTENTS.items() if run.get("ops" if key in of_layers else key, True)
    ]
    return run


def _ops(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = ("op", "pass", "dtype", "layers", "mean", "worst", "best")
    ops: list[dict[str, Any]] = [dict(zip(names, values, strict=True)) for values in by_op(dict(found))]
    return [{**op, "pass_name": PASS_NAMES.get(op["pass"], op["pass"])} for op in ops]


def _auto(found: Mapping[str, Any]) -> dict[str, Any] | None:
    losses = auto_losses(dict(found))
    return {"count": len(losses), "median": statistics.median(losses), "worst": max(losses)} if losses else None


def _parity(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each op, pass and dtype the result that is nearest to its limit, and how many were checked."""
    worst: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        one = views.worst_parity(row)
        if one is None:
            continue
        key = (row["op"], row["pass"], row["dtype"])
        known = worst.get(key)
        count = len(row["parity"]) + (known["count"] if known else 0)
        if known is None or (not one["holds"], one["share"]) > (not known["holds"], known["share"]):
            name = PASS_NAMES.get(row["pass"], row["pass"])
            known = {**one, "op": row["op"], "pass_name": name, "dtype": row["dtype"], "layer": row["layer"]}
        worst[key] = {**known, "count": count}
    return list(worst.values())


def _facts(found: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name, value in found["environment"].items():
        if isinstance(value, dict):
            yield from ((f"{name}: {key}", str(one)) for key, one in value.items())
        elif isinstance(value, list):
            yield name, ", ".join(f"{one:.2f}" if isinstance(one, float) else str(one) for one in value)
        elif value is not None:
            yield name, str(value)
    for dtype, rate in found["roof"].get("flops", {}).items():
        yield f"roof: {dtype} matrix product", views.quantity(rate, "FLOP/s")
    for size, rate in found["roof"].get("copy", []):
        yield f"roof: copy of {views.quantity(size / 2, 'B')}", views.quantity(rate, "B/s")
    for name, value in found["settings"].items():
        if value not in (None, []):
            yield f"setting: {name}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)
