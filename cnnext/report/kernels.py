"""bench/results/kernels.md for the page: the figures of the CUDA and Triton kernels that need no GPU."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from cnnext.bench.results import ResultError

DEFAULT = Path(__file__).resolve().parent.parent.parent / "bench/results/kernels.md"
"""Where `make kernels` puts them; an installed package has no such file."""


@dataclass
class Table:
    """A section of the file: its heading, what it says, and its table."""

    title: str
    text: list[str] = field(default_factory=list)
    head: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)


def read(path: Path) -> list[Table]:
    """The sections that have a table.

    Raises:
        ResultError: the file cannot be read, or has no table.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}") from error
    tables: list[Table] = []
    for number, line in enumerate(lines, 1):
        if line.startswith("## "):
            tables.append(Table(line.removeprefix("## ")))
        elif not tables or not line.strip():
            continue
        elif not line.startswith("|"):
            tables[-1].text.append(re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", line).replace("`", ""))
        else:
            _add(tables[-1], [cell.strip(" `") for cell in line.strip()[1:-1].split("|")], f"{path}:{number}")
    found = [table for table in tables if table.rows]
    if not found:
        raise ResultError(f"{path} has no table of kernels: `make kernels` writes it")
    return found


def _add(table: Table, cells: list[str], where: str) -> None:
    if not table.head:
        table.head = cells
    elif set("".join(cells)) <= set("-: "):
        return
    elif len(cells) != len(table.head):
        raise ResultError(f"{where} is damaged: {len(cells)} cells under {len(table.head)} titles")
    else:
        table.rows.append(cells)
