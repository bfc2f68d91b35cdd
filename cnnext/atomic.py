"""Files that are either whole or not there: written beside their place, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_beside(target: Path) -> Iterator[Path]:
    """A path beside ``target`` that takes its place if the block succeeds, and is removed if it does not."""
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield beside
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def require_writable(target: Path) -> None:
    """Make the folder of ``target`` and see that a file can be put there.

    Called before hours of work whose result goes there.

    Raises:
        OSError: it cannot; the text names ``target``.
    """
    trial = target.with_name(f".{target.name}.{os.getpid()}.trial")
    try:
        if target.exists() and not target.is_file():
            raise OSError("it is there and is not a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
    except FileExistsError as error:
        raise OSError(f"{target} cannot be written: {target.parent} is not a folder") from error
    except OSError as error:
        raise OSError(f"{target} cannot be written: {error.strerror or error}") from error
