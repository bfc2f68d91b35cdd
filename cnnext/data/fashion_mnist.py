"""The dataset as tensors, and its loader: whole in memory, seeded order, resized one minibatch at a time."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence

import torch

from cnnext.data import files
from cnnext.data.fetch import fetch, ways_out

TEXT_LABELS = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def text_labels(indices: Sequence[int] | torch.Tensor) -> list[str]:
    """Names of classes, from their numbers in [0, 10)."""
    return [TEXT_LABELS[int(index)] for index in indices]


def parse_idx(content: bytes, name: str) -> torch.Tensor:
    """A uint8 tensor from the IDX format: two zero bytes, type 8, rank, big-endian sizes, then the bytes.

    Raises:
        DataError: ``content`` is something else.
    """
    rank = content[3] if len(content) >= 4 and content[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * rank
    if rank == 0 or len(content) < start:
        raise files.DataError(f"{name} is not an IDX file of bytes: it begins with {content[:4]!r}")
    sizes = struct.unpack(f">{rank}I", content[4:start])
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start)
    count = 1
    for size in sizes:
        count *= size
    if data.numel() != count:
        raise files.DataError(f"{name} has {data.numel()} bytes of data, but its header says {list(sizes)}")
    return data.view(sizes)


class FashionMNIST(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Fashion-MNIST, whole in memory.

    The files are looked for in ``root`` (or ``$CNNEXT_DATA``), in cnnext's cache and where Debian's package
    lays them; else they are downloaded, into ``root`` or the cache. They are checked by SHA-256.

    Args:
        root: a folder of the four ``*-ubyte.gz`` files, or where to put them.
        train: the 60,000 training images, else the 10,000 test images.
        resize: image size (h, w), one int for both; None leaves 28×28.
        download: get the files if they are nowhere.

    Attributes:
        images: uint8 (N, 1, 28, 28), as stored; resized only when taken.
        targets: int64 (N,), in [0, 10).

    Raises:
        DataError: the files are nowhere and cannot be got, or one is truncated or altered.
        TypeError, ValueError: ``resize`` is not a size.

    Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms", 2017.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        train: bool = True,
        resize: int | tuple[int, int] | None = None,
        download: bool = True,
    ):
        self.train, self.resize = train, _image_size(resize)
        prefix = "train" if train else "t10k"
        names = (f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz")
        folder = files.find(root, names)
        if folder is None:
            folder = files.folders(root)[0]
            if not download:
                raise files.DataError(ways_out(folder, ["downloading was not asked for (download=False)"]))
            fetch(folder)
        images, targets = (parse_idx(files.read(folder / name), name) for name in names)
        self.folder, self.images, self.targets = folder, images.unsqueeze(1), targets.long()

    def __len__(self) -> int:
        return self.images.shape[0]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """One image, float32 (1, h, w) in [0, 1], and its class."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index={index} is outside the {len(self)} images")
        return _to_input(self.images[index][None], self.resize)[0], int(self.targets[index])

    def loader(
        self,
        batch_size: int = 128,
        shuffle: bool | None = None,
        seed: int = 0,
        resize: int | tuple[int, int] | None = None,
        device: torch.device | str | None = None,
    ) -> Loader:
        """Minibatches of the set; ``shuffle`` is on for training unless said, ``resize`` is the dataset's."""
        shuffle = self.train if shuffle is None else shuffle
        size = self.resize if resize is None else resize
        return Loader(self.images, self.targets, batch_size, shuffle, seed, size, device)


class Loader:
    """Minibatches (images, targets) of a set that is whole in memory.

    Each pass over it is one epoch. The order depends on ``seed`` and the number of the epoch alone, and is
    drawn on the CPU: it is the same on every machine, and training can be taken up at any epoch. The last
    minibatch is what is left over (96 for Fashion-MNIST's 60,000 and 128).

    Args:
        images: uint8 (N, C, H, W).
        targets: int64 (N,).
        batch_size: images in a minibatch.
        shuffle: draw a new order for each epoch.
        seed: of the orders.
        resize: image size (h, w); bilinear with antialiasing, done for each minibatch as it is taken, because
            the set at 224×224 would need 12 GB.
        device: where the minibatches, and the set they are taken from, lie.

    Attributes:
        epoch: number of the epoch that the next pass is; set it to take up training there.
    """

    def __init__(
        self,
        images: torch.Tensor,
        targets: torch.Tensor,
        batch_size: int = 128,
        shuffle: bool = False,
        seed: int = 0,
        resize: int | tuple[int, int] | None = None,
        device: torch.device | str | None = None,
    ):
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a positive int, but got {batch_size!r}")
        self.images, self.targets = images.to(device), targets.to(device)
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.resize, self.epoch = _image_size(resize), 0

    def __len__(self) -> int:
        """Minibatches in an epoch."""
        return -(-self.images.shape[0] // self.batch_size)

    def order(self, epoch: int) -> torch.Tensor:
        """Indexes of the images in the order of that epoch, int64 (N,), on the CPU."""
        if not self.shuffle:
            return torch.arange(self.images.shape[0])
        # An odd factor keeps (seed, epoch) and (seed + 1, epoch − 1) apart; the generator reads 32 bits.
        generator = torch.Generator().manual_seed((self.seed * 100_003 + epoch) % 2**32)
        return torch.randperm(self.images.shape[0], generator=generator)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = self.order(self.epoch).to(self.images.device)
        self.epoch += 1
        for indexes in order.split(self.batch_size):
            yield _to_input(self.images[indexes], self.resize), self.targets[indexes]


def _image_size(resize: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if resize is None:
        return None
    size = (resize, resize) if isinstance(resize, int) else resize
    if not isinstance(size, (tuple, list)) or len(size) != 2 or not all(type(side) is int for side in size):
        raise TypeError(f"resize must be an int or a pair of ints, but got {resize!r}")
    if min(size) < 1:
        raise ValueError(f"resize must be positive, but got {resize!r}")
    return size[0], size[1]


def _to_input(images: torch.Tensor, resize: tuple[int, int] | None) -> torch.Tensor:
    """uint8 (N, C, H, W) to float32 in [0, 1], resized."""
    scaled = images.float().div_(255)
    if resize is None or resize == tuple(images.shape[-2:]):
        return scaled
    return torch.nn.functional.interpolate(scaled, size=resize, mode="bilinear", antialias=True)
