"""A small data set in Fashion-MNIST's format that a network can learn: ten patterns under noise."""

import functools
import gzip
import hashlib
import struct
import sys

import torch

from cnnext.data import Loader, files
from cnnext.data.fashion_mnist import parse_idx

TRAIN, TEST = 320, 100


def idx(array):
    return struct.pack(f">BBBB{array.dim()}I", 0, 0, 8, array.dim(), *array.shape) + array.numpy().tobytes()


@functools.cache
def contents():
    """Unpacked content of the four files, by name."""
    generator = torch.Generator().manual_seed(1)
    patterns = torch.randint(0, 200, (10, 28, 28), generator=generator)
    result = {}
    for prefix, count in (("train", TRAIN), ("t10k", TEST)):
        labels = torch.randint(0, 10, (count,), generator=generator)
        noise = torch.randint(0, 56, (count, 28, 28), generator=generator)
        result[f"{prefix}-images-idx3-ubyte.gz"] = idx((patterns[labels] + noise).to(torch.uint8))
        result[f"{prefix}-labels-idx1-ubyte.gz"] = idx(labels.to(torch.uint8))
    return result


@functools.cache
def packed():
    return {name: gzip.compress(content, 1) for name, content in contents().items()}


def write(folder):
    """Put the four files into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in packed().items():
        (folder / name).write_bytes(content)


def hashes():
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents().items()}


def loader(train=True, batch_size=64, **options):
    """Minibatches of it, as the package loads them."""
    prefix = "train" if train else "t10k"
    images, labels = (
        parse_idx(contents()[f"{prefix}-{part}-ubyte.gz"], part) for part in ("images-idx3", "labels-idx1")
    )
    return Loader(images.unsqueeze(1), labels.long(), batch_size, shuffle=train, **options)


if __name__ == "__main__":  # the command line, on this data: for tests that need a process of their own
    files.SHA256.update(hashes())
    from cnnext.cli import main

    sys.exit(main())
