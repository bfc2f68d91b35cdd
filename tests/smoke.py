"""Run the native ops beside torch's, in a process that has another torch, instruction set or library.

Forward and backward of each op, in float32 and float64 and both layouts, are held to the accuracy rule.
"""

import functools
import itertools

import torch
import torch.nn.functional as peer

import cnnext
import cnnext.functional as ours
from cnnext import reference
from cnnext.info import isa
from cnnext.testing import assert_as_exact_as_torch, assert_gradients_as_exact_as_torch, make_tensor


def corr2d(library, x, kernel):
    return peer.conv2d(x[None, None], kernel[None, None])[0, 0] if library is peer else library.corr2d(x, kernel)


IMAGE = (3, 6, 19, 17)
OPS = {
    "corr2d": (corr2d, [(19, 17), (3, 2)]),
    "conv2d": (
        lambda library, x, weight, bias: library.conv2d(x, weight, bias, stride=(2, 1), padding=1, groups=2),
        [IMAGE, (8, 3, 3, 3), (8,)],
    ),
    "max_pool2d": (lambda library, x: library.max_pool2d(x, 3, stride=2, padding=1), [IMAGE]),
    "avg_pool2d": (lambda library, x: library.avg_pool2d(x, 2, ceil_mode=True), [IMAGE]),
    "adaptive_avg_pool2d": (lambda library, x: library.adaptive_avg_pool2d(x, (5, 4)), [IMAGE]),
    "batch_norm": (
        lambda library, x, weight, bias: library.batch_norm(x, None, None, weight, bias, training=True),
        [IMAGE, (6,), (6,)],
    ),
}


def check(name, dtype, layout):
    op, shapes = OPS[name]
    tensors = [
        make_tensor(shape, dtype, channels_last=layout == torch.channels_last and len(shape) == 4, seed=seed)
        for seed, shape in enumerate(shapes)
    ]
    of_ours, exact, of_torch = (functools.partial(op, library) for library in (ours, reference, peer))
    assert_as_exact_as_torch(of_ours(*tensors), exact, of_torch, *tensors)
    assert_gradients_as_exact_as_torch(of_ours, exact, of_torch, *tensors)


if __name__ == "__main__":
    cnnext.backend("cpu")  # raises, at the first op, if the native library is not there
    cases = list(itertools.product(OPS, (torch.float32, torch.float64), (torch.contiguous_format, torch.channels_last)))
    for case in cases:
        check(*case)
    print(f"{len(cases)} cases agree with torch {torch.__version__} on {isa()}")
