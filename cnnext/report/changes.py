"""Two result files beside each other: what became slower, as far as their spread lets one say so.

Two runs are never at the same load, so their times are not compared, but the ratios to the same peer in each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from cnnext.bench.summary import PASS_NAMES, timed
from cnnext.info import table

Spread = list[float]


@dataclass(frozen=True)
class Change:
    """A row that both files have.

    Attributes:
        what: the row, and who of ours, in words.
        peer: beside whom.
        old, new: the ratio of each file, as [lower quartile, median, upper quartile].
    """

    what: str
    peer: str
    old: Spread
    new: Spread

    @property
    def factor(self) -> float:
        """How much faster it became: below one it is slower."""
        return self.new[1] / self.old[1]

    def is_beyond(self, tolerance: float) -> bool:
        """Whether it became slower or faster by more than ``tolerance``, and the quartiles do not overlap."""
        apart = self.new[2] < self.old[0] or self.new[0] > self.old[2]
        return apart and not 1 - tolerance <= self.factor <= 1 / (1 - tolerance)


@dataclass
class Comparison:
    """What two files have in common.

    Attributes:
        changes: rows of both.
        missing: rows that only the old file has times for.
        added: rows that only the new file has times for.
        differences: of the environments, that may be to blame.
    """

    changes: list[Change]
    missing: list[str]
    added: list[str]
    differences: list[str]

    def slower(self, tolerance: float) -> list[Change]:
        """The rows that became slower, the worst first."""
        found = [change for change in self.changes if change.factor < 1 and change.is_beyond(tolerance)]
        return sorted(found, key=lambda change: change.factor)

    def faster(self, tolerance: float) -> list[Change]:
        """The rows that became faster, the best first."""
        found = [change for change in self.changes if change.factor > 1 and change.is_beyond(tolerance)]
        return sorted(found, key=lambda change: -change.factor)


def compare(old: dict[str, Any], new: dict[str, Any]) -> Comparison:
    """Compare two result files."""
    before, after = (dict(_entries(found)) for found in (old, new))
    changes = []
    for what in before.keys() & after.keys():
        peer = next((peer for peer in _by_time(before[what]) if peer in after[what][0]), None)
        if peer is not None:
            changes.append(Change(what, peer, before[what][0][peer], after[what][0][peer]))
    names = ("device", "gpu", "processor", "isa", "cores", "threads", "torch", "python")
    differences = [
        f"{name}: {old['environment'].get(name)} before, {new['environment'].get(name)} now"
        for name in names
        if old["environment"].get(name) != new["environment"].get(name)
    ]
    order = list(before)
    changes.sort(key=lambda change: order.index(change.what))
    missing, added = [what for what in before if what not in after], [what for what in after if what not in before]
    return Comparison(changes, missing, added, differences)


def _entries(found: dict[str, Any]) -> Iterable[tuple[str, tuple[dict[str, Spread], dict[str, Spread]]]]:
    """(row and who, (ratios by peer, times)) of every row with times."""
    sections: dict[str, Callable[[Any], str]] = {
        "layers": lambda row: f"{row['layer']}, {row['shape']}, {PASS_NAMES.get(row['pass'], row['pass'])}",
        "networks": lambda row: f"{row['title']}, batch {row['batch']}, {row['pass']}",
    }
    for section, title in sections.items():
        for row in timed(found[section]):
            for who, ratios in row["ratios"].items():
                yield f"{title(row)}, {row['dtype']}, {who}", (ratios, row["times"])


def _by_time(entry: tuple[dict[str, Spread], dict[str, Spread]]) -> list[str]:
    """The peers of an entry, the fastest first."""
    ratios, times = entry
    return sorted(ratios, key=lambda peer: times[peer][1])


def text(comparison: Comparison, tolerance: float, most: int = 40) -> str:
    """The comparison for the terminal."""
    parts = [f"not of the same environment: {line}" for line in comparison.differences]
    slower, faster = comparison.slower(tolerance), comparison.faster(tolerance)
    for title, found in (("slower", slower), ("faster", faster)):
        if found:
            rows = [[title, "beside", "before", "now", "change"]]
            rows += [
                [change.what, change.peer, _spread(change.old), _spread(change.new), f"{change.factor - 1:+.0%}"]
                for change in found[:most]
            ]
            parts.append(table(rows, right=(4,)) + (f"\n… and {len(found) - most} more" if len(found) > most else ""))
    if comparison.missing or comparison.added:
        parts.append(
            f"in the first file only: {_list(comparison.missing)}\nin the second only: {_list(comparison.added)}"
        )
    parts.append(
        f"{len(comparison.changes)} compared: {len(slower)} slower, {len(faster)} faster by more than {tolerance:.0%} "
        "and beyond the quartiles of both"
    )
    return "\n\n".join(parts)


def _spread(ratio: Spread) -> str:
    return f"{ratio[1]:.2f}× ({ratio[0]:.2f} to {ratio[2]:.2f})"


def _list(names: list[str], most: int = 5) -> str:
    shown = "; ".join(names[:most]) or "nothing"
    return shown + (f"; … {len(names) - most} more" if len(names) > most else "")
