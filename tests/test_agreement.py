"""A model learns on our layers what it learns on torch's."""

import itertools

import pytest
import torch
from synthetic import loader

import cnnext
from cnnext import data, recipes
from cnnext.testing import present_backends
from cnnext.train import fit

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
USERS_CHOICE = set(cnnext.backends()) - {"torch"}  # a whole training takes the emulator too long
OURS = [(name, device) for device in DEVICES for name in present_backends("conv2d", device) if name in USERS_CHOICE]


@pytest.mark.parametrize(("name", "device"), OURS)
class TestAgreement:
    """LeNet on our layers and on torch's, with the same seed: the losses lie on each other, and so do the kernels.

    The losses alone tell little: sigmoids let LeNet start so slowly that its convolutions hardly matter yet.
    """

    STEPS, TOLERANCE = 100, 1e-3

    def assert_agreement(self, batches, name, device):
        losses, kernels, changes = [], [], []
        for layers in (None, torch.nn):
            batches.epoch = 0
            endless = itertools.chain.from_iterable(itertools.repeat(batches))
            with cnnext.backend(name):
                model = recipes.build("lenet", layers=layers)
                before = [model.net[i].weight.detach().cpu().clone() for i in (0, 3)]
                history = fit(model, itertools.islice(endless, self.STEPS), epochs=1, lr=0.1, device=device)
            assert len(history.step_loss) == self.STEPS
            losses.append(torch.tensor(history.step_loss))
            kernels.append([model.net[i].weight.detach().cpu() for i in (0, 3)])
            changes = [after - start for after, start in zip(kernels[-1], before, strict=True)]
        assert (losses[0] - losses[1]).abs().max() <= self.TOLERANCE
        for ours, theirs, change in zip(*kernels, changes, strict=True):
            assert (ours - theirs).abs().max() <= self.TOLERANCE * change.abs().max()

    def test_on_synthetic_data(self, name, device):
        self.assert_agreement(loader(batch_size=32), name, device)

    @pytest.mark.slow
    def test_on_fashion_mnist(self, name, device):
        try:
            batches = data.FashionMNIST().loader(batch_size=128, seed=0)
        except data.DataError as error:
            pytest.skip(f"Fashion-MNIST is not on this machine and cannot be got: {error}")
        self.assert_agreement(batches, name, device)
