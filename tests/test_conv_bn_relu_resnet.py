"""Whole training steps of ResNet-18 on the fused functions: what they keep in memory, and where they lead."""

import copy
import itertools

import fused_resnet
import pytest
import torch

import cnnext
from cnnext import models

LEAST_SAVED = 0.30  # of what torch keeps for the backward pass


def build(layers, seed=0):
    torch.manual_seed(seed)
    return models.ResNet18(layers=layers).init((1, 1, 32, 32))


def saved_bytes(function, known):
    """Bytes of the storages that autograd keeps for ``function()``, besides those of ``known`` tensors."""
    storages, apart = {}, {tensor.untyped_storage().data_ptr() for tensor in known}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = function()
    assert kept.requires_grad
    return sum(size for at, size in storages.items() if at not in apart)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_activations_kept_for_the_backward_pass(layout):
    x = torch.randn(2, 1, 96, 96).contiguous(memory_format=layout)
    theirs = build(torch.nn).to(memory_format=layout)
    swapped = copy.deepcopy(theirs)
    cnnext.swap(swapped, fuse=True)
    with cnnext.backend("cpu"):
        ours = build(None).to(memory_format=layout)
        fused = saved_bytes(lambda: fused_resnet.forward(ours, x), ours.parameters())
        by_swap = saved_bytes(lambda: swapped(x), swapped.parameters())
    torchs = saved_bytes(lambda: theirs(x), theirs.parameters())
    assert fused <= (1 - LEAST_SAVED) * torchs, f"{fused} bytes, torch keeps {torchs}"
    assert by_swap <= (1 - LEAST_SAVED) * torchs, f"{by_swap} bytes after swap, torch keeps {torchs}"


def losses(layers, layout, prepare=None, forward=None, dtype=torch.float32, steps=50):
    """Loss of each step of a narrow ResNet-18 that learns ten noisy patterns."""
    torch.manual_seed(0)
    model = models.ResNet(((2, 64), (2, 32), (2, 32), (2, 32)), layers=layers).init((1, 1, 32, 32))
    model.to(dtype, memory_format=layout)
    if prepare is not None:
        prepare(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(1)
    patterns, found = torch.rand(10, 1, 32, 32, generator=generator), []
    for _ in range(steps):
        labels = torch.randint(10, (16,), generator=generator)
        images = patterns[labels] + 0.5 * torch.randn(16, 1, 32, 32, generator=generator)
        images = images.to(dtype, memory_format=layout)
        optimizer.zero_grad()
        scores = model(images) if forward is None else forward(model, images)
        loss = torch.nn.functional.cross_entropy(scores, labels)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return torch.tensor(found, dtype=torch.float64)


def swap_and_fuse(model):
    assert len(cnnext.swap(model, fuse=True).fused) == 9  # the stem, and eight blocks that fuse themselves


def swap_alone(model):
    cnnext.swap(model)
    for module in model.modules():  # a layer with a hook is called by itself
        module.register_forward_hook(lambda *_: None)


WAYS = {
    "functions": {"layers": None, "forward": fused_resnet.forward},
    "swapped and fused": {"layers": torch.nn, "prepare": swap_and_fuse},
    "swapped": {"layers": torch.nn, "prepare": swap_alone},
}
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def apart(a, b):
    return (a - b).square().mean().sqrt().item()


@pytest.fixture(scope="module", name="peers")
def torchs_losses():
    """Torch's own: each layout, with oneDNN and without."""
    found = []
    for layout, enabled in itertools.product(LAYOUTS, (True, False)):
        with torch.backends.mkldnn.flags(enabled=enabled):
            found.append(losses(torch.nn, layout))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_fifty_steps_stay_within_the_spread_of_torchs_own(way, layout, peers):
    """Rounding parts the losses of torch's own layouts and libraries; ours are no further from the nearest of those."""
    spread = max(apart(a, b) for a, b in itertools.combinations(peers, 2))
    with cnnext.backend("cpu"):
        found = losses(layout=layout, **WAYS[way])
    assert found[-10:].mean() < found[:10].mean() / 2
    assert min(apart(found, peer) for peer in peers) <= spread


@pytest.fixture(scope="module", name="exact")
def torchs_losses_in_float64():
    return losses(torch.nn, torch.contiguous_format, dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_fifty_steps_in_float64_are_torchs(way, exact):
    """Where rounding is of no account, all fifty losses are the same."""
    with cnnext.backend("cpu"):
        found = losses(layout=torch.channels_last, dtype=torch.float64, **WAYS[way])
    torch.testing.assert_close(found, exact)
