"""Run the native ops beside torch's, in a process that has another torch, instruction set or library.

``python smoke.py RESULTS`` does forward and backward of each op, in float32 and float64 and both layouts,
fails where we differ from torch, and saves our results, so that those of two processes can be compared.
"""

import sys

import torch
import torch.nn.functional as peer

import cnnext
import cnnext.functional as ours
from cnnext.info import isa


def corr2d(library, x, kernel):
    return library.corr2d(x, kernel) if library is ours else peer.conv2d(x[None, None], kernel[None, None])[0, 0]


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


def output_and_gradients(op, library, inputs):
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    output = op(library, *leaves)
    slope = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return [output.detach(), *torch.autograd.grad(output, leaves, slope)]


def main(results_path):
    cnnext.backend("cpu")  # raises, at the first op, if the native library is not there
    results = {}
    for name, (op, shapes) in OPS.items():
        for dtype in (torch.float32, torch.float64):
            for layout in (torch.contiguous_format, torch.channels_last):
                generator = torch.Generator().manual_seed(0)
                inputs = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
                inputs = [x.contiguous(memory_format=layout) if x.dim() == 4 else x for x in inputs]
                found = output_and_gradients(op, ours, inputs)
                torch.testing.assert_close(
                    found, output_and_gradients(op, peer, inputs), msg=lambda text, n=name: f"{n}: {text}"
                )
                results[f"{name} {dtype} {layout}"] = found
    torch.save(results, results_path)
    print(f"{len(results)} cases agree with torch {torch.__version__} on {isa()}")


if __name__ == "__main__":
    main(sys.argv[1])
