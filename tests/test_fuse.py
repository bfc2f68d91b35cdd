"""Networks whose chains are fused by ``swap(model, fuse=True)`` against the networks that they were."""

import copy
import io

import pytest
import torch
from fusible import CHAINS, Block, Functional, Nested, Net, record_chains

import cnnext
from cnnext.nn.fuse import is_fused

every_net = pytest.mark.parametrize("build", CHAINS, ids=lambda build: build.__name__)


@pytest.fixture(autouse=True)
def our_kernels():
    with cnnext.backend("cpu"):
        yield


@pytest.fixture(name="chains")
def recorded_chains(monkeypatch):
    return record_chains(monkeypatch)


def make(build=Net, dtype=torch.float64):
    torch.manual_seed(0)
    return build().to(dtype)


def image(dtype=torch.float64):
    return torch.randn(3, 3, 8, 10, dtype=dtype, generator=torch.Generator().manual_seed(1))


def step(net, x):
    x = x.clone().requires_grad_()
    y = net(x)
    y.square().sum().backward()
    return y, x.grad, {name: p.grad for name, p in net.named_parameters()}, dict(net.named_buffers())


@every_net
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_fused_model_computes_the_same(build, layout, chains):
    net = make(build)
    before, x = copy.deepcopy(net), image().contiguous(memory_format=layout)
    modules, parameters = list(net.modules()), list(net.parameters())
    report = cnnext.swap(net, fuse=True)
    assert report.fused == CHAINS[build]
    for training in (True, False, True):
        net.train(training), before.train(training), net.zero_grad(), before.zero_grad()
        torch.testing.assert_close(step(net, x), step(before, x))
    assert len(chains) == 3 * len(report.fused)
    assert all(a is b for a, b in zip(net.modules(), modules, strict=True))
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert list(net.state_dict()) == list(before.state_dict())


@every_net
def test_unswap_restores_the_model(build):
    net = make(build)
    kinds, members = [type(m) for m in net.modules()], [vars(m).keys() for m in net.modules()]
    cnnext.swap(net, fuse=True)
    net(image())
    assert repr(net) == repr(make(build))
    assert any(is_fused(m) for m in net.modules())
    cnnext.unswap(net)
    assert [type(m) for m in net.modules()] == kinds
    assert [vars(m).keys() for m in net.modules()] == members


def test_without_fuse_nothing_is_fused(chains):
    net = make()
    report = cnnext.swap(net)
    net(image())
    assert report.fused is None
    assert not chains
    assert not any(is_fused(m) for m in net.modules())


def test_a_second_swap_finds_the_same_chains(chains):
    net = make()
    cnnext.swap(net)
    first, second = (cnnext.swap(net, fuse=True) for _ in range(2))
    assert first.fused == second.fused == CHAINS[Net]
    net(image())
    assert len(chains) == len(CHAINS[Net])
    cnnext.unswap(net)
    assert type(net) is Net


@every_net
def test_copies_and_pickles_are_fused(build, chains):
    net, x, file = make(build), image(), io.BytesIO()
    cnnext.swap(net, fuse=True)
    net.eval()
    torch.save(net, file)
    file.seek(0)
    y = net(x)
    del chains[:]
    for twin in (copy.deepcopy(net), torch.load(file, weights_only=False), copy.copy(net)):
        assert isinstance(twin, type(net))
        assert torch.equal(twin(x), y)
        assert len(chains) == len(CHAINS[build])
        del chains[:]
        twin.load_state_dict(make(build).state_dict())


def test_an_optimizer_made_before_goes_on():
    net, x = make(), image()
    before = copy.deepcopy(net)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9) for model in (net, before)]
    cnnext.swap(net, fuse=True)
    for _ in range(3):
        for model, optimizer in zip((net, before), optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(net.state_dict(), before.state_dict())


def test_a_hook_that_comes_later_sees_its_call(chains):
    net, x, seen = make(), image(), []
    before = copy.deepcopy(net)
    cnnext.swap(net, fuse=True)
    handles = [
        net.get_submodule(name).register_forward_hook(lambda module, *_: seen.append(module))
        for name in ("layer1", "layer1.0", "layer1.1.bn1", "layer1.1.downsample", "relu")
    ]
    torch.testing.assert_close(net(x), before(x))
    assert len(seen) == 5
    for handle in handles:
        handle.remove()
    del chains[:]
    torch.testing.assert_close(net(x), before(x))
    assert len(seen) == 5
    assert len(chains) == 4
    with torch.nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module)):
        net(x)
        del seen[:5]
        calls = len(seen)
        before(x)
    assert len(seen) == 2 * calls


def test_layers_that_are_put_in_later_run():
    net, x = make(), image()
    before = copy.deepcopy(net)
    cnnext.swap(net, fuse=True)
    for model in (net, before):
        torch.manual_seed(0)
        model.bn1 = torch.nn.Identity()
        model.layer1[0].relu = torch.nn.ELU()
        model.layer1[1].conv2 = torch.nn.Conv2d(12, 12, 3, padding=1, padding_mode="circular").double()
        model.layer1.append(Block(12, 12).double())
    torch.testing.assert_close(net(x), before(x))
    net.layer1[0].downsample = before.layer1[0].downsample = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 1).double())
    torch.testing.assert_close(net(x), before(x))


class Branches(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.doubled = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3), False

    def forward(self, x, shift=None):
        x = torch.relu(self.bn(self.conv(x)))
        if self.training:
            x = x + 1
        if shift is not None:
            x = x * shift
        return 2 * x if self.doubled else x


def test_branches_are_taken_as_they_come(chains):
    net, x = make(Branches), image()
    before = copy.deepcopy(net)
    cnnext.swap(net, fuse=True)
    calls = [lambda m: m(x), lambda m: m.eval()(x), lambda m: m(x=x), lambda m: m.train()(x), lambda m: m(x, x)]
    calls += [lambda m: m(x, shift=x), lambda m: setattr(m, "doubled", True) or m(x), lambda m: m.eval()(x)]
    for i, call in enumerate(calls):
        torch.testing.assert_close(call(net), call(before), msg=lambda text, i=i: f"call {i}: {text}")
    assert len(chains) == len(calls) - 2  # those with a shift are not traced
    for model in (net, before):
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
            model()
        with pytest.raises(TypeError, match="unexpected keyword argument 'y'"):
            model(x, y=1)


def test_a_module_whose_values_change_all_the_time_runs_as_it_is():
    net, x = make(Branches), image()
    before = copy.deepcopy(net)
    cnnext.swap(net, fuse=True)
    for doubled in range(40):
        net.doubled = before.doubled = doubled
        torch.testing.assert_close(net(x), before(x))
    assert len(vars(net)["_fused_plans"]) < 60


class Listed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block(3, 3) for _ in range(2))
        self.conv, self.shifts = torch.nn.Conv2d(3, 3, 1), [1, 2]

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return torch.relu(self.conv(x)) + sum(self.shifts)


def test_lists_may_grow():
    net, x = make(Listed), image()
    before = copy.deepcopy(net)
    cnnext.swap(net, fuse=True)
    torch.testing.assert_close(net(x), before(x))
    block = Block(3, 3).double()
    for model in (net, before):
        model.blocks.append(copy.deepcopy(block))
        model.shifts.append(3)
    torch.testing.assert_close(net(x), before(x))


def test_a_norm_that_is_frozen_later(chains):
    net, x = make(), image()
    before = copy.deepcopy(net)
    cnnext.swap(net, fuse=True)
    for model in (net, before):
        model.bn1.eval(), model.layer1[0].bn2.eval().requires_grad_(False)
    torch.testing.assert_close(step(net, x), step(before, x))
    assert len(chains) == 4


def test_tied_parameters_stay_tied(chains):
    net, x = make(Nested), image()
    net.proj[1].weight = net.f[2][1].weight
    before = copy.deepcopy(net)
    cnnext.swap(net, fuse=True)
    torch.testing.assert_close(step(net, x), step(before, x))
    assert net.proj[1].weight is net.f[2][1].weight
    assert sorted(chains) == [1, 3]


@pytest.mark.parametrize("training", [True, False])
def test_fused_model_is_compiled_without_a_graph_break(training):
    net, x = make(Net, torch.float32).train(training), image(torch.float32)
    expected = copy.deepcopy(net)(x)
    cnnext.swap(net, fuse=True)
    torch.testing.assert_close(torch.compile(net, backend="aot_eager", fullgraph=True)(x), expected)


def test_a_traced_model_is_fused(chains):
    net, x = torch.fx.symbolic_trace(make()), image()
    before = copy.deepcopy(net)
    report = cnnext.swap(net, fuse=True)
    assert len(report.fused) == 4
    torch.testing.assert_close(net(x), before(x))
    assert len(chains) == 4
    torch.testing.assert_close(copy.deepcopy(net)(x), before(x))
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    torch.testing.assert_close(torch.load(file, weights_only=False)(x), before(x))


def test_lazy_layers_are_fused_from_their_second_call(chains):
    net = torch.nn.Sequential(torch.nn.LazyConv2d(4, 3), torch.nn.LazyBatchNorm2d(), torch.nn.ReLU())
    assert cnnext.swap(net, fuse=True).fused == {"0": "0 → 1 → 2"}
    x = image(torch.float32)
    net(x)
    assert not chains
    net(x)
    assert chains == [1]


def test_images_without_a_batch_and_other_inputs():
    net, x = make(Functional).eval(), image()
    before = copy.deepcopy(net)
    cnnext.swap(net, fuse=True)
    with pytest.raises(ValueError, match="expected 4D input"):
        net(x[0])
    with pytest.raises(TypeError):
        net([1])
    torch.testing.assert_close(net(x[:0]), before(x[:0]))


def test_refusal():
    with pytest.raises(TypeError, match="`fuse` must be a bool, but got 1"):
        cnnext.swap(make(), fuse=1)
