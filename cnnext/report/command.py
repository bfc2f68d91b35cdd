"""``cnnext report``: its options, and what it does with them."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cnnext.atomic import require_writable, written_beside
from cnnext.bench import results
from cnnext.bench.plan import SECTIONS
from cnnext.commands import FAILED, UsageError
from cnnext.report import changes, figures, kernels, page, tables

EXAMPLES = """examples:
  cnnext report bench-results.json                a page and pictures in bench-report/
  cnnext report cpu.json gpu.json --output page --tables README.md
  cnnext report --compare before.json after.json  what became slower; the exit code is 1 if something did

`cnnext bench` makes the files."""
README = Path("README.md")
LONG = Path("bench/results/README.md")


def add_options(command: argparse.ArgumentParser, positive: Any) -> None:
    """Add the options; ``positive`` is an argparse type for a positive number."""
    add = command.add_argument
    add("files", nargs="+", metavar="FILE.json", help="results of `cnnext bench`")
    add("--output", default="bench-report", metavar="FOLDER", help="of index.html and its PNGs (default: bench-report)")
    add(
        "--tables",
        nargs="*",
        metavar="FILE.md",
        help=f"rewrite what stands between {tables.START} and {tables.END} in these "
        f"(default: {README} and {LONG}, where they are and have the markers)",
    )
    add("--sections", nargs="+", choices=SECTIONS, metavar="X", help=f"of {', '.join(SECTIONS)} (default: all)")
    add("--kernels", metavar="FILE.md", help="of `make kernels`, shown where no results are of a GPU")
    add("--compare", action="store_true", help="compare two files instead: what became slower")
    add("--tolerance", type=positive, default=0.05, metavar="X", help="of --compare (default: 0.05, five percent)")


def run_report(options: argparse.Namespace) -> int:
    """Read everything, then write the page, the pictures and the tables; nothing is written if something is wrong."""
    runs = [(Path(name).stem, results.read(name)) for name in options.files]
    if options.compare:
        return _compare(options, runs)
    for name, found in runs:
        if options.sections:
            for section in SECTIONS:
                found[section] = found[section] if section in options.sections else []
        _require_sections(name, found, options.sections or SECTIONS)
    _require_libraries()
    folder = Path(options.output)
    written: dict[Path, bytes] = {}
    for path in _tables(options):
        make = tables.long if path.name == LONG.name and path.parent.name == LONG.parent.name else tables.short
        written[path] = tables.replaced(path, make(runs)).encode()
    pictures, files = _pictures(runs)
    written |= {folder / name: data for name, data in files.items()}
    written[folder / "index.html"] = page.render(runs, pictures, _kernels(options, runs)).encode()
    _require_ours(folder / "index.html")
    _write(written)
    for path in written:
        print(path)
    return 0


def _require_sections(name: str, found: dict[str, Any], wanted: Any) -> None:
    empty = [section for section in wanted if not found[section]]
    if empty:
        others = " ".join(section for section in wanted if found[section])
        way = f": --sections {others} leaves that out" if others else ""
        raise UsageError(f"{name}.json has no results for the section {', '.join(empty)}{way}")


def _require_libraries() -> None:
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(f"a report needs {error.name}: pip install 'cnnext[report]'") from error


def _require_ours(path: Path) -> None:
    """See that a page of another origin is not lost."""
    if path.is_file() and page.GENERATOR not in path.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise UsageError(
            f"{path} is there and is no page of `cnnext report`: it is left as it is, name another --output"
        )


def _tables(options: argparse.Namespace) -> list[Path]:
    if options.tables is not None:
        return [Path(name) for name in options.tables]
    there = [path for path in (README, LONG) if path.is_file()]
    return [path for path in there if tables.START in path.read_text(encoding="utf-8", errors="replace")]


def _pictures(runs: tables.Runs) -> tuple[list[dict[str, str]], dict[str, bytes]]:
    """The pictures of each run for the page, and the PNG files of all."""
    pictures: list[dict[str, str]] = []
    files = {}
    for number, (name, found) in enumerate(runs):
        pictures.append({})
        for which, (_, _, title) in figures.DRAWN.items():
            figure = figures.draw(found, which)
            if figure is not None:
                pictures[-1][which] = figures.svg(figure, f"run{number}-{which}", title)
                files[f"{name}-{which}.png" if len(runs) > 1 else f"{which}.png"] = figures.png(figure)
    return pictures, files


def _kernels(options: argparse.Namespace, runs: tables.Runs) -> list[kernels.Table]:
    if options.kernels is not None:
        return kernels.read(Path(options.kernels))
    on_a_gpu = any(found["environment"].get("device") == "cuda" for _, found in runs)
    return kernels.read(kernels.DEFAULT) if not on_a_gpu and kernels.DEFAULT.is_file() else []


def _write(written: dict[Path, bytes]) -> None:
    """Write all files beside their places, and only then put them there."""
    for path in written:
        require_writable(path)
    with ExitStack() as stack:
        for path, data in written.items():
            stack.enter_context(written_beside(path)).write_bytes(data)


def _compare(options: argparse.Namespace, runs: tables.Runs) -> int:
    if len(runs) != 2:
        raise UsageError(f"--compare takes two files, the older first, not {len(runs)}")
    if options.tolerance >= 1:
        raise UsageError(f"--tolerance {options.tolerance:g} is not below 1")
    comparison = changes.compare(runs[0][1], runs[1][1])
    if not comparison.changes:
        raise UsageError(f"{options.files[0]} and {options.files[1]} have no row in common that has times in both")
    print(changes.text(comparison, options.tolerance))
    return FAILED if comparison.slower(options.tolerance) else 0
