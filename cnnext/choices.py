"""Tables of choices on disk: what was measured once on this machine, for every process from then on.

A table is a JSON object of strings. It is whole or not there, a damaged one is set aside, and processes that write at
the same time lose nothing: they take turns by a lock file, and each adds to what the others wrote.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from cnnext.atomic import written_beside


class Choices:
    """A table, read once.

    Args:
        path: its file. What the choices depend on besides their keys, such as versions and the device, belongs into
            its name.
    """

    def __init__(self, path: Path):
        self._path = path
        self._choices = read(path)

    def get(self, key: str) -> str | None:
        """The choice under ``key``, or None."""
        return self._choices.get(key)

    def remember(self, key: str, choice: str) -> None:
        """Add a choice, here and to the file as it is now; where that cannot be written, warn."""
        self._choices[key] = choice
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self._path):
                merged = {**read(self._path), **self._choices}
                with written_beside(self._path) as beside:
                    beside.write_text(json.dumps(merged, indent=1, sort_keys=True))
        except OSError as error:
            warnings.warn(f"a choice cannot be kept in {self._path}: {error}", RuntimeWarning, stacklevel=2)


def read(path: Path) -> dict[str, str]:
    """The choices in a file; one that is damaged is set aside."""
    try:
        choices = json.loads(path.read_text())
        if not isinstance(choices, dict) or not all(isinstance(choice, str) for choice in choices.values()):
            raise ValueError("it is not a table of names")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        aside = path.with_suffix(".damaged")
        warnings.warn(f"{path} cannot be read ({error}): it is set aside as {aside.name}", RuntimeWarning, stacklevel=3)
        with contextlib.suppress(OSError):
            os.replace(path, aside)
        return {}
    return choices


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among the processes that change ``path``. The lock file is one for the folder, and stays."""
    with open(path.parent / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
