"""Run functions in several processes of a group: this one, and others by ``ranks.py cases size folder rank``."""

import datetime
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cnnext
import cnnext.functional as F
from cnnext import nn

TIME_LIMIT = 120  # seconds, for a process that waits for another that is gone


def run(cases, folder, size=2):
    """What each ``case(rank)`` returned, by case and rank; a raised error's type and text stand for it."""
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("this torch has no gloo")
    environment = os.environ | {"PYTHONPATH": str(Path(cnnext.__file__).parents[1])}
    command = [sys.executable, __file__, ",".join(cases), str(size), str(folder)]
    others = [subprocess.Popen([*command, str(rank)], env=environment) for rank in range(1, size)]
    try:
        main(cases, size, folder, 0)
        assert [other.wait(TIME_LIMIT) for other in others] == [0] * (size - 1)
    finally:
        for other in others:
            other.kill()
    return {case: [torch.load(folder / f"{case}.{rank}") for rank in range(size)] for case in cases}


def tensors(dtype=torch.float64, rows=4):
    """Input, weight, bias, norm, running statistics and residual of a layer, and the gradient of its output."""
    random = torch.Generator().manual_seed(0)
    shapes = {"input": (rows, 3, 5, 4), "weight": (6, 3, 3, 3), "bias": (6,), "bn_weight": (6,), "bn_bias": (6,)}
    shapes |= {"running_mean": (6,), "running_var": (6,), "residual": (rows, 6, 3, 2), "grad": (rows, 6, 3, 2)}
    made = {name: torch.randn(shape, generator=random, dtype=torch.float64) for name, shape in shapes.items()}
    made["running_var"].abs_()
    return {name: tensor.to(dtype) for name, tensor in made.items()}


LEARNT = ("input", "weight", "bias", "bn_weight", "bn_bias", "residual")
ROWS = {"input", "residual", "grad"}
"""What is shared out to the processes; the rest is the same in each."""


def layer(made, rows=slice(None), **options):
    """Output, gradients and running statistics of the layer for some rows of the batch."""
    own = {name: tensor[rows].clone() if name in ROWS else tensor.clone() for name, tensor in made.items()}
    grad = own.pop("grad")
    for name in LEARNT:
        own[name].requires_grad_()
    output = F.conv_bn_relu(**own, training=True, momentum=0.3, eps=0.1, **options)
    output.backward(grad)
    return {"output": output.detach()} | {
        name: own[name].grad if name in LEARNT else tensor for name, tensor in own.items()
    }


def part(rank, first):
    """The rows of a process: ``first`` for the first one, the others for the second."""
    return slice(0, first) if rank == 0 else slice(first, None)


def world():
    return torch.distributed.group.WORLD


def unequal(rank):
    return layer(tensors(), part(rank, 3), process_group=world())


def empty(rank):
    return layer(tensors(), part(rank, 4), process_group=world())


def narrow_tensors():
    wide = tensors(torch.float32)
    return {name: t if name.startswith(("bn", "run")) else t.bfloat16() for name, t in wide.items()}


def narrow(rank):
    return layer(narrow_tensors(), part(rank, 2), process_group=world())


def of_torch(rank):
    with cnnext.backend("torch"):
        return layer(tensors(), part(rank, 1), process_group=world())


def nan(rank):
    made = tensors()
    made["bias"][2] = float("nan") if rank else 1.0
    return layer(made, part(rank, 2), process_group=world())


def channels(rank):
    made = tensors()
    if rank:
        made = {
            name: t[:5] if len(t) == 6 else t[:, :5] if name in ("residual", "grad") else t for name, t in made.items()
        }
    return layer(made, process_group=world())


def stranger(rank):
    group = torch.distributed.new_group([0])
    return layer(tensors(), process_group=group)


def single_value(rank):
    x, norm = torch.randn(1 - rank, 3, 1, 1), nn.SyncBatchNorm(3)
    return norm(x)


def two_values(rank):
    x, layer = torch.full((1, 2, 1, 1), float(rank)), nn.ConvBNReLU(2, 3, 1)
    layer.bn = nn.SyncBatchNorm(3)
    return layer(x).detach()


def network(rank):
    """Two steps of a network whose norms are those of all processes, swapped and fused.

    The gradients are averaged here, for torch's DistributedDataParallel has no such norms on the CPU.
    """
    from fusible import Net

    torch.manual_seed(0)
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(Net().double())
    report = cnnext.swap(model, fuse=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for images in images_of_steps():
        optimizer.zero_grad()
        model(images[part(rank, 2)]).square().mean().backward()
        for parameter in model.parameters():
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= 2
        optimizer.step()
    return {"fused": report.fused, "state": model.state_dict(), "scores": model.eval()(images).detach()}


def images_of_steps():
    return torch.randn(2, 4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def norm(rank):
    """The norm alone, on its own in each of torch's shapes."""
    random, results = torch.Generator().manual_seed(0), []
    for shape in ((4, 3), (4, 3, 5), (4, 3, 5, 2), (4, 3, 2, 2, 3)):
        x = torch.randn(shape, generator=random, dtype=torch.float64)[part(rank, 3)].clone().requires_grad_()
        bn = nn.SyncBatchNorm(3, momentum=None, dtype=torch.float64)
        y = bn(x)
        y.square().mul(torch.arange(3).view(1, 3, *[1] * (x.dim() - 2))).sum().backward()
        results.append((y.detach(), x.grad, bn.weight.grad, bn.running_var))
    return results


def main(cases, size, folder, rank):
    limit = datetime.timedelta(seconds=TIME_LIMIT)
    for case in cases:
        file = f"file://{folder}/{case}"
        torch.distributed.init_process_group("gloo", init_method=file, rank=rank, world_size=size, timeout=limit)
        try:
            result = globals()[case](rank)
        except Exception as error:  # the test looks at it
            result = f"{type(error).__name__}: {error}"
        finally:
            torch.distributed.destroy_process_group()
        torch.save(result, folder / f"{case}.{rank}")


if __name__ == "__main__":
    main(sys.argv[1].split(","), int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
