"""Get the files of Fashion-MNIST: from Debian's package where there is apt-get, else from the authors."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from cnnext.atomic import require_writable, written_beside
from cnnext.data.files import SHA256, SYSTEM_FOLDER, DataError, check
from cnnext.progress import progress_bar

PACKAGE = "dataset-fashion-mnist"
URLS = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
)
TIMEOUT_SECONDS = 30


def fetch(folder: Path) -> None:
    """Put the four files into ``folder``, checked; files that are there already are left alone.

    Raises:
        DataError: the folder cannot be written, or nothing could be got; the text lists the ways out.
    """
    try:
        require_writable(folder / next(iter(SHA256)))
    except OSError as error:
        raise DataError(
            f"Fashion-MNIST cannot be kept there: {error}.\n"
            f"  Name a folder that can be written, by --data FOLDER, $CNNEXT_DATA or $CNNEXT_CACHE."
        ) from error
    wanted = [name for name in SHA256 if not (folder / name).is_file()]
    reasons = []
    for way in (_from_debian, _from_authors):
        reason = way(folder, wanted)
        if reason is None:
            return
        reasons.append(reason)
    raise DataError(ways_out(folder, reasons))


def ways_out(folder: Path, reasons: list[str]) -> str:
    """The text for a machine where the data is not and cannot be got."""
    lines = ["Fashion-MNIST is not on this machine", *(f"  {reason}" for reason in reasons)]
    return "\n".join(
        [
            *lines,
            "Three ways out:",
            f"  1. on Debian or Ubuntu: sudo apt install {PACKAGE}",
            f"  2. copy its four files ({', '.join(SHA256)}) from another machine into {folder}",
            f"     (they are at {URLS[0]})",
            "  3. if they are in a folder already, name it: --data FOLDER, or CNNEXT_DATA in the environment",
        ]
    )


def _place(folder: Path, name: str, packed: bytes, source: object) -> None:
    check(name, packed, source)
    with written_beside(folder / name) as beside:
        beside.write_bytes(packed)


def _from_debian(folder: Path, wanted: list[str]) -> str | None:
    """Download and unpack Debian's package, which needs no root; the reason if that fails."""
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        return "apt-get: not on this machine"
    print(f"cnnext: getting Fashion-MNIST (30 MB) into {folder} with apt-get", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="cnnext-") as work:
        complaint = _run(["apt-get", "-q", "download", PACKAGE], work)
        if complaint:
            _run(["apt-get", "-q", "update"], work)  # may want root; what counts is the download that follows
            complaint = _run(["apt-get", "-q", "download", PACKAGE], work)
        package = next(Path(work).glob(f"{PACKAGE}_*.deb"), None)
        if complaint or package is None:
            return f"apt-get: {complaint or 'it left no package'}"
        complaint = _run(["dpkg", "-x", str(package), "unpacked"], work)
        if complaint:
            return f"dpkg: {complaint}"
        try:
            for name in wanted:
                source = Path(work, "unpacked", SYSTEM_FOLDER.relative_to("/"), name)
                _place(folder, name, source.read_bytes(), f"{name} of the package {PACKAGE}")
        except (OSError, DataError) as error:
            return f"apt-get: {error}"
    return None


def _run(command: list[str], folder: str) -> str | None:
    """Run a command; the last line it wrote if it failed."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = done.stdout.strip().splitlines() or [f"{' '.join(command)} failed"]
    return lines[-1] if done.returncode else None


def _from_authors(folder: Path, wanted: list[str]) -> str | None:
    """Download the files over https; the reason if that fails."""
    reasons = []
    for base in URLS:
        try:
            for name in wanted:
                if not (folder / name).is_file():
                    _place(folder, name, _download(base + name), base + name)
            return None
        except (OSError, http.client.HTTPException, DataError) as error:  # URLError is an OSError
            reasons.append(f"{base}: {error}")
    return "\n  ".join(reasons)


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
        length = answer.headers.get("Content-Length")
        parts = []
        with progress_bar(int(length) if length else None, url.rsplit("/", 1)[-1], "B") as bar:
            while part := answer.read(1 << 16):
                parts.append(part)
                bar.update(len(part))
    return b"".join(parts)
