"""Result files: their form, reading and writing.

JSON, an object with ``format`` and ``version`` of this form, ``created`` (UTC), ``environment`` (commit, versions,
machine), ``settings``, ``roof``, and the sections ``layers``, ``networks`` and ``overhead``, each a list of rows;
``left_out`` tells what there was no time for. Times are seconds, as [lower quartile, median, upper quartile]; a ratio
is a peer's time over ours. A row without ``times`` failed its parity.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from cnnext.atomic import written_beside

FORMAT, VERSION = "cnnext-bench", 1
SECTIONS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "layers": {
        "network": str,
        "layer": str,
        "op": str,
        "shape": str,
        "count": int,
        "pass": str,
        "dtype": str,
        "flops": int,
        "bytes": int,
        "roof_seconds": (int, float),
        "parity": dict,
    },
    "networks": {"network": str, "title": str, "batch": int, "pass": str, "dtype": str, "apart": (int, float)},
    "overhead": {"op": str, "gradients": bool, "ours": list, "torch": list, "difference": list},
}
TOP = {"created": str, "environment": dict, "settings": dict, "roof": dict, "left_out": list}
TIMED = {"times": dict, "ratios": dict, "peer": str}


class ResultError(ValueError):
    """A file is not one of results, or not of this version; the text says why."""


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a result file.

    Raises:
        ResultError: it is not there, damaged, of another form or version, or lacks a part.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ResultError(f"{path} cannot be read: {reason}") from error
    try:
        results = json.loads(text)
    except ValueError as error:
        raise ResultError(f"{path} is damaged: {error}") from error
    _validate(results, path)
    return results


def write(results: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a result file, whole or not at all."""
    _validate(results, path)
    with written_beside(Path(path)) as beside:
        beside.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def require_replaceable(path: Path) -> None:
    """See that ``path`` may be written: there is nothing, or an earlier result file of whatever version.

    Raises:
        ResultError: it holds something else.
    """
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ResultError(f"{path} is there and is no file of results: it is left as it is, name another")


def _validate(results: Any, path: str | os.PathLike[str]) -> None:
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise ResultError(f"{path} is not a result file of `cnnext bench`")
    if results.get("version") != VERSION:
        raise ResultError(f"{path} is of version {results.get('version')!r}, this cnnext reads version {VERSION}")
    _require(results, TOP, str(path))
    for section, fields in SECTIONS.items():
        rows = results.get(section)
        if not isinstance(rows, list):
            raise ResultError(f"{path} is damaged: it has no list {section!r}")
        for number, row in enumerate(rows):
            where = f"{path}, {section}[{number}]"
            _require(row, fields, where)
            if section != "overhead" and "times" in row:
                _require(row, TIMED, where)
                _require_times(row, where)


def _require(row: Any, fields: dict[str, Any], where: str) -> None:
    if not isinstance(row, dict):
        raise ResultError(f"{where} is damaged: it is no object")
    for name, kind in fields.items():
        value = row.get(name)
        if not isinstance(value, kind) or (isinstance(value, float) and not math.isfinite(value)):
            raise ResultError(f"{where} is damaged: {name!r} is {value!r:.60}")


def _require_times(row: dict[str, Any], where: str) -> None:
    ratios = [value for of in row["ratios"].values() for value in (of.values() if isinstance(of, dict) else [of])]
    for value in [*row["times"].values(), *ratios]:
        numbers = value if isinstance(value, list) else []
        if len(numbers) != 3 or not all(isinstance(x, (int, float)) and 0 < x < math.inf for x in numbers):
            raise ResultError(f"{where} is damaged: {value!r:.60} is no median with quartiles")
    if row["peer"] not in row["times"]:
        raise ResultError(f"{where} is damaged: its peer {row['peer']!r} has no time")
