"""Chains that ``swap(model, fuse=True)`` must not fuse, or not to their end, and the reasons that it gives."""

import copy
import random

import pytest
import torch
from torch.nn import BatchNorm2d, Conv2d, Dropout2d, Identity, Module, ReLU, Sequential

import cnnext


@pytest.fixture(autouse=True)
def our_kernels():
    with cnnext.backend("cpu"):
        yield


class Layers(Module):
    """Two convolutions, their norms and a ReLU, used in the order that ``order`` says."""

    def __init__(self, order):
        super().__init__()
        self.a, self.b = (Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.norm_a, self.norm_b = (BatchNorm2d(3) for _ in range(2))
        self.relu, self.changing = ReLU(), ReLU(inplace=True)
        self.order = order

    def forward(self, x):
        return self.order(self, x)


def used_twice(m, x):
    y = m.a(x)
    return m.norm_a(y) + y


def returned(m, x):
    return m.norm_a(m.a(x)) * 2, m.b(x)


def called_twice(m, x):
    return m.norm_a(m.a(m.relu(m.norm_a(m.a(x)))))


def norm_called_twice(m, x):
    return m.norm_a(m.b(m.relu(m.norm_a(m.a(x)))))


def input_changed(m, x):
    x = x * 2
    y = m.a(x)
    x += 1
    return torch.relu(m.norm_a(y)) + x


def input_changed_by_a_layer(m, x):
    x = x * 2
    y = m.a(x)
    z = m.changing(x)
    return torch.relu(m.norm_a(y)) + z


def residual_changed(m, x):
    x = x * 2
    y = m.norm_a(m.a(m.b(x) * 2)) + x
    x.mul_(0)
    return torch.relu(y), x


def added_in_place_to_the_other(m, x):
    x = x * 2
    z = x.view(-1)
    x += m.norm_a(m.a(x))
    return torch.relu(x), z


def added_to_itself(m, x):
    y = m.norm_a(m.a(x))
    return torch.relu(y + y)


def scaled_sum(m, x):
    return torch.relu(torch.add(m.norm_a(m.a(x)), x, alpha=2))


def asks_for_a_type(m, x):
    y = m.norm_a(m.a(x))
    return y if isinstance(y, torch.Tensor) else x


def asks_for_the_type_of_its_input(m, x):
    return m.norm_a(m.a(x)) if isinstance(x, torch.Tensor) and not isinstance(x, (list, dict)) else x


def looks_at_a_shape(m, x):
    return m.norm_a(m.a(x)) if x.shape[0] > 1 else m.norm_a(m.b(x))


def looks_at_a_value(m, x):
    return m.norm_a(m.a(x)) if x.sum() > 0 else x


def without_gradients(m, x):
    with torch.no_grad():
        y = m.norm_a(m.a(x))
    return y + x


def keeps_a_value(m, x):
    m.seen = m.norm_a(m.a(x))
    return m.seen + 1


def counts(m, x):
    m.count = getattr(m, "count", 0) + 1
    return m.norm_a(m.a(x)) * m.count


def draws(m, x):
    return m.norm_a(m.a(x)) * random.random()


def draws_by_torch(m, x):
    return m.norm_a(m.a(x)) * float(torch.rand(()))


def counts_in_a_buffer(m, x):
    m.norm_b.num_batches_tracked += 1
    return m.norm_a(m.a(x)) * m.norm_b.num_batches_tracked


def makes_a_tensor(m, x):
    return m.norm_a(m.a(x)) + torch.ones(3, 1, 1)


def calculates_with_a_parameter(m, x):
    return m.norm_a(m.a(x)) * m.norm_b.weight.view(3, 1, 1)


def calculates_with_a_buffer(m, x):
    return m.norm_a(m.a(x)) * m.norm_b.running_var.view(3, 1, 1)


@torch.no_grad()
def decorated(m, x):
    return m.norm_a(m.a(x))


def asks_for_a_size(m, x):
    return m.norm_a(m.a(x)) * m.b.weight.shape[0] * m.b.bias.numel()


ORDERS = {
    used_twice: ({}, {"a": "its result is used 2 times"}),
    returned: ({"a": "a → norm_a"}, {"b": "its result is what the forward returns"}),
    called_twice: ({}, {"a": "calls it more than once"}),
    norm_called_twice: ({}, {"norm_a": "calls it more than once", "a": "norm_a follows", "b": "norm_a follows"}),
    input_changed: ({}, {"a": "changes a value in place"}),
    input_changed_by_a_layer: ({}, {"a": "changing, which runs before its chain ends, changes a value in place"}),
    residual_changed: (
        {},
        {"a": "mul_, which runs before its chain ends, changes a value in place", "b": "mul follows"},
    ),
    added_in_place_to_the_other: ({"a": "a → norm_a"}, {}),
    added_to_itself: ({"a": "a → norm_a"}, {}),
    scaled_sum: ({"a": "a → norm_a"}, {}),
    asks_for_a_type: ({}, {"a": "its forward asks for the type of a value"}),
    asks_for_the_type_of_its_input: ({"a": "a → norm_a"}, {}),
    looks_at_a_shape: ({}, {"a": "torch.fx cannot trace it: symbolically traced variables"}),
    looks_at_a_value: ({}, {"b": "torch.fx cannot trace it: symbolically traced variables"}),
    without_gradients: ({}, {"a": "its forward switches gradients or autocast"}),
    keeps_a_value: ({}, {"a": "its forward keeps values in a module"}),
    counts: ({}, {"a": "its forward keeps values in a module"}),
    draws: ({}, {"a": "its forward draws random numbers"}),
    draws_by_torch: ({}, {"a": "its forward calculates with tensors that are not its inputs"}),
    counts_in_a_buffer: ({}, {"a": "its forward calculates with tensors that are not its inputs"}),
    makes_a_tensor: ({}, {"a": "its forward calculates with tensors that are not its inputs"}),
    calculates_with_a_parameter: ({"a": "a → norm_a"}, {}),
    calculates_with_a_buffer: ({}, {"a": "its forward calculates with tensors that are not its inputs"}),
    decorated: ({}, {"a": "its forward switches gradients or autocast"}),
    asks_for_a_size: ({"a": "a → norm_a"}, {}),
}


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.__name__)
def test_what_is_not_fused(order):
    torch.manual_seed(0)
    net = Layers(order).double()
    before, x = copy.deepcopy(net), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    state = torch.get_rng_state()
    report = cnnext.swap(net, fuse=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert vars(net).keys() - {"_fused_plans"} == vars(before).keys()
    fused, left = ORDERS[order]
    assert report.fused == fused
    for name, reason in left.items():
        assert reason in report.unfused[name]
        assert f"  {name}: not fused, " in str(report)
    for _ in range(2):
        seed()
        expected = before(x)
        seed()
        torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(net.state_dict(), before.state_dict())


def seed():
    torch.manual_seed(1)
    random.seed(1)


def chain(*more):
    return Sequential(Conv2d(3, 3, 1), BatchNorm2d(3), ReLU(), *more)


def hooked(i):
    net = chain()
    net[i].register_forward_hook(lambda *_: None)
    return net


def frozen():
    net = chain()
    net[1].eval()
    return net


def shared():
    conv = Conv2d(3, 3, 1)
    return Sequential(Sequential(conv, BatchNorm2d(3)), Sequential(conv, BatchNorm2d(3)))


def replaced():
    net = chain()
    net[1].forward = lambda x: x
    return net


def never_called():
    net = Layers(lambda m, x: torch.relu(m.a(x)))
    del net.norm_a, net.norm_b
    return net


MODELS = {
    "hook on the convolution": (lambda: hooked(0), {}, {"0": "it has a hook"}),
    "hook on the norm": (lambda: hooked(1), {}, {"1": "it has a hook", "0": "1 follows"}),
    "hook on the ReLU": (lambda: hooked(2), {"0": "0 → 1"}, {"2": "it has a hook"}),
    "frozen norm": (frozen, {}, {"1": "it is in evaluation mode and its convolution in training mode"}),
    "shared": (shared, {}, {"0.0": "its forward calls it more than once"}),
    "replaced forward": (replaced, {}, {"0": "1 follows"}),
    "padding": (lambda: Sequential(Conv2d(3, 3, 3, padding_mode="reflect"), ReLU()), {}, {"0": "'reflect'"}),
    "other layers": (lambda: Sequential(Conv2d(3, 3, 1), Dropout2d(), ReLU()), {}, {"0": "1 follows"}),
    "identity": (lambda: Sequential(Conv2d(3, 3, 1), BatchNorm2d(3), Identity(), ReLU()), {"0": "0 → 1"}, {}),
    "never called": (never_called, {"a": "a → relu"}, {"b": "no forward that torch.fx could trace calls it"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_left_is_listed_with_its_reason(name):
    build, fused, left = MODELS[name]
    torch.manual_seed(0)
    net = build()
    x, state = torch.randn(2, 3, 5, 5), torch.get_rng_state()
    before = copy.deepcopy(net)
    report = cnnext.swap(net, fuse=True)
    assert report.fused == fused
    for layer, reason in left.items():
        assert reason in report.unfused[layer]
    torch.set_rng_state(state)
    expected = before(x)
    torch.set_rng_state(state)
    torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(net.state_dict(), before.state_dict())


def test_a_shortcut_that_changes_its_input():
    class Shortcut(Module):
        def __init__(self, side):
            super().__init__()
            self.main, self.side = chain(), side

        def forward(self, x):
            return self.main(x) + self.side(x)

    class Unknown(Module):
        def forward(self, x):
            return x.mul_(2)

    for side, count in ((Sequential(Identity(), ReLU(inplace=True)), 0), (Sequential(Unknown()), 0), (chain(), 2)):
        torch.manual_seed(0)
        net, x = Shortcut(side), torch.randn(2, 3, 5, 5)
        before = copy.deepcopy(net)
        report = cnnext.swap(net, fuse=True)
        assert len(report.fused) == count + 1 - (count == 2)
        torch.testing.assert_close(net(x.clone()), before(x.clone()))
