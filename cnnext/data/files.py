"""The four files of Fashion-MNIST: where they may lie, and the check that they are whole."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from pathlib import Path

from cnnext.library import cache_folder

SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist

# SHA-256 of each file's unpacked content. Debian's files and the authors' hold the same data but differ in
# the gzip header (name and time), so a hash of the packed file would refuse one of the two.
SHA256 = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


class DataError(RuntimeError):
    """The data is not there or not whole; the text says which file, and what to do."""


def user_folder(root: str | os.PathLike[str] | None) -> Path | None:
    """The folder the user named: ``root``, else ``$CNNEXT_DATA``, else None."""
    named = root if root is not None else os.environ.get("CNNEXT_DATA")
    return Path(named).expanduser() if named else None


def folders(root: str | os.PathLike[str] | None) -> list[Path]:
    """Where the files are looked for, in this order."""
    named = user_folder(root)
    return [*([named] if named else []), cache_folder() / "fashion-mnist", SYSTEM_FOLDER]


def find(root: str | os.PathLike[str] | None, names: tuple[str, ...]) -> Path | None:
    """The first of :func:`folders` that has all of ``names``; None if there is none."""
    return next((place for place in folders(root) if all((place / name).is_file() for name in names)), None)


def unpack(packed: bytes) -> tuple[bytes, str | None]:
    """Unpack gzip data; what could be unpacked, and the complaint if that is not all."""
    try:
        return gzip.decompress(packed), None
    except (OSError, EOFError, zlib.error) as error:
        complaint = str(error)
    stream = zlib.decompressobj(wbits=31)
    try:
        return stream.decompress(packed), complaint
    except zlib.error:
        return b"", complaint


def check(name: str, packed: bytes, source: object) -> bytes:
    """Return the unpacked content of ``packed`` if it is that of the dataset's file ``name``.

    Raises:
        DataError: it is truncated or altered.
    """
    content, complaint = unpack(packed)
    found = hashlib.sha256(content).hexdigest()
    if complaint is None and found == SHA256[name]:
        return content
    raise DataError(
        f"{source} is truncated or altered{f' ({complaint})' if complaint else ''}.\n"
        f"  SHA-256 of its unpacked content, expected: {SHA256[name]}\n"
        f"                                      found: {found}\n"
        f"  Remove that file and run again: cnnext then gets it anew."
    )


def read(path: Path) -> bytes:
    """The unpacked content of a file of the dataset, checked.

    Raises:
        DataError: it is truncated or altered, or cannot be read.
    """
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return check(path.name, packed, path)
