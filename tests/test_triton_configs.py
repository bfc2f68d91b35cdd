"""Every config of every Triton kernel that a GPU may run with, interpreted where tiles have edges.

The op tests let the interpreter take blocks of its own, as large as what there is to do. Here a kernel has one config
of its list and no other, on sizes that fill a tile of it and leave a rest in each direction.
"""

import pkgutil
from importlib import import_module

import pytest
import test_batch_norm
import test_conv2d
import test_corr2d
import torch
import torch.nn.functional as torch_functional

import cnnext
import cnnext.functional as F
from cnnext import reference
from cnnext.backends import get
from cnnext.testing import assert_as_exact_as_torch, assert_gradients_as_exact_as_torch, make_tensor

REASON = get("triton").can_run("corr2d", torch.device("cpu"), torch.float32)
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"the kernels are not interpreted: {REASON}")


def kernels():
    """Every ``Kernel`` of the package, by name."""
    from cnnext import triton
    from cnnext.triton.launch import Kernel

    modules = [import_module(f"cnnext.triton.{module.name}") for module in pkgutil.iter_modules(triton.__path__)]
    return {value.name: value for module in modules for value in vars(module).values() if isinstance(value, Kernel)}


def kind_of(kernel, config, on):
    """The kinds of numbers for which a GPU may choose a config."""
    hints = (32, 256, 256, 1, 0, 256)
    return [kind for kind in ("float16", "float32") if kernel.fits(config, on, kind, hints)]


def assert_exact(functions, *tensors, **arguments):
    """The parity rule for a function and its gradients, beside its definition and torch's own."""
    function, exact, peer = functions
    assert_as_exact_as_torch(function(*tensors, **arguments), exact, peer, *tensors, **arguments)
    assert_gradients_as_exact_as_torch(function, exact, peer, *tensors, **arguments)


def conv2d(n, c, k, side, dtype, last, **arguments):
    """A convolution of 3 × 3 taps with padding, and its gradients."""
    groups = arguments.get("groups", 1)
    tensors = (
        make_tensor((n, c, side, 9), dtype, channels_last=last),
        make_tensor((k, c // groups, 3, 3), dtype, seed=1),
    )
    functions = F.conv2d, test_conv2d.reference_conv2d, torch_functional.conv2d
    assert_exact(functions, *tensors, padding=1, **arguments)
    bias = make_tensor((k,), dtype, seed=2)
    output = F.conv2d(*tensors, bias, padding=1, **arguments)
    assert_as_exact_as_torch(output, *functions[1:], *tensors, bias, padding=1, **arguments)


def fused(c, k, side, dtype, last, taps, groups=1):
    """A convolution of what a norm and a ReLU make of its input, with statistics over several tiles."""
    x, weight = (
        make_tensor((2, c, side, 9), dtype, channels_last=last),
        make_tensor((k, c // groups, taps, taps), dtype),
    )
    mean, var, scale, shift = (make_tensor((c,), seed=seed).abs() + 0.5 for seed in range(4))
    geometry = ((1, 1), (taps // 2, taps // 2), (1, 1), groups)
    norm = (mean, var, scale, shift)
    arguments = (x, weight, None, *norm, 1e-5, *geometry, False, False)
    output, *statistics = torch.ops.cnnext_triton.conv2d_statistics(*arguments)

    def unfused(x, weight, mean, var, scale, shift):
        activation = torch_functional.batch_norm(x, mean, var, scale, shift).relu()
        return torch_functional.conv2d(activation, weight, None, *geometry)

    assert_as_exact_as_torch(output, unfused, unfused, x, weight, *norm)
    var, mean = torch.var_mean(output.double(), (0, 2, 3), correction=0)
    torch.testing.assert_close(statistics, [mean.float(), var.float()])


def gemm(config, dtype, last, name):
    """Two tiles and a rest of gemm_m and gemm_n, and of gemm_k by taps and, with few channels, FLAT."""
    m, n, k = (config["BLOCK_" + axis] for axis in "MNK")
    rows = m // 9 + 2  # of 9 pixels
    if "forward" in name:
        conv2d(1, k + 3, n + 3, rows, dtype, last)
        conv2d(1, 9, 5, rows, dtype, last)
        for taps in (1, 3):
            fused(k + 3, n + 3, rows, dtype, last, taps)
    elif "backward_input" in name:
        conv2d(1, n + 3, k + 3, 4 * rows, dtype, last, stride=2)
        conv2d(1, 5, 9, 4 * rows, dtype, last, stride=2)
    else:
        conv2d(3, n // 9 + 2, m + 3, 31, dtype, last)


def depthwise(config, dtype, last, name):
    """Two filters a channel; and the gradient of the bias, which is a depthwise kernel's work."""
    m, n = config["BLOCK_M"], config["BLOCK_N"]
    conv2d(1, n + 3, 2 * (n + 3), m // 9 + 2, dtype, last, groups=n + 3)
    if "forward" in name:
        fused(n + 3, 2 * (n + 3), m // 9 + 2, dtype, last, 3, groups=n + 3)
    if "backward_weight" in name:
        grad = make_tensor((2, n + 3, m // 9 + 2, 9), dtype, channels_last=last)
        image = make_tensor((2, 1, m // 9 + 2, 9), dtype)
        geometry = ((1, 1), (0, 0), (1, 1), 1, False, False)
        sums = torch.ops.cnnext_triton.conv2d_backward_weight(grad, image, (n + 3, 1, 1, 1), *geometry)[1]
        assert_as_exact_as_torch(sums, lambda g: g.sum((0, 2, 3)), lambda g: g.sum((0, 2, 3)), grad)


def pool(functions, config, dtype, last, **arguments):
    """A pool of which the forward and the backward pass have more values than a block."""
    c = 3 + 2 * config.get("BLOCK", config.get("BLOCK_M", 1)) // 60
    assert_exact(functions, make_tensor((1, c, 7, 10), dtype, channels_last=last), **arguments)


def max_pool2d(config, dtype, last, name):
    functions = F.max_pool2d, reference.max_pool2d, torch_functional.max_pool2d
    pool(functions, config, dtype, last, kernel_size=3, stride=1, padding=1)
    x = make_tensor((1, 3 + config["BLOCK"] // 60, 7, 10), dtype, channels_last=last, requires_grad=True)
    (gradient,) = torch.autograd.grad(F.max_pool2d(x, 2, 1).square().sum(), x, create_graph=True)
    assert gradient.square().sum().backward() is None  # the derivative of the backward pass gathers
    twin = x.detach().clone().requires_grad_()
    (peer,) = torch.autograd.grad(torch_functional.max_pool2d(twin, 2, 1).square().sum(), twin, create_graph=True)
    peer.square().sum().backward()
    torch.testing.assert_close(x.grad, twin.grad)


def avg_pool2d(config, dtype, last, name):
    functions = F.avg_pool2d, reference.avg_pool2d, torch_functional.avg_pool2d
    pool(functions, config, dtype, last, kernel_size=3, stride=1, padding=1, count_include_pad=False)


def adaptive_avg_pool2d(config, dtype, last, name):
    functions = F.adaptive_avg_pool2d, reference.adaptive_avg_pool2d, torch_functional.adaptive_avg_pool2d
    pool(functions, config, dtype, last, output_size=(5, 6))
    side = {1: 8, 8: 22}.get(config.get("BLOCK_T"), 35)
    x = make_tensor((1, 3 + config.get("BLOCK_M", 1), side, side), dtype, channels_last=last)
    assert_exact(functions, x, output_size=1)  # more taps than a block


def batch_norm(config, dtype, last, name):
    """Channels and samples beyond a tile; the mean is far from 0 and drifts, so that merging tiles has to be exact."""
    channels = config.get("BLOCK_C", config.get("BLOCK", 1)) + 1
    split = "apply" not in name and (last or channels == 2)
    samples = 4200 if split else 2 * config.get("BLOCK_S", 1)
    x = make_tensor((3, channels, 5, samples // 15 + 2), dtype, channels_last=last, seed=1)
    x.add_(torch.arange(3).view(3, 1, 1, 1)).add_(100 if dtype == torch.float32 else 0)
    for training in (True, False):
        test_batch_norm.assert_exact(x, *test_batch_norm.make_parameters(channels), training=training)


def corr2d(config, dtype, last, name):
    functions = F.corr2d, reference.corr2d, test_corr2d.torch_corr2d
    p, q = 2 * config.get("BLOCK_P", 16) + 3, config.get("BLOCK_Q", 64) + 3
    taps = (4, config.get("BLOCK_T", 4) // 4 + 1)
    assert_exact(functions, make_tensor((p + 3, q + 3), dtype), make_tensor(taps, dtype, seed=1))


def statistics(config, dtype, last, name):
    """Tiles of pixels and channels beyond a block; the mean is far from 0 and differs from tile to tile."""
    from cnnext.triton.conv2d_epilogue import Moments

    tiles, channels = 2 * config["BLOCK_T"] + 3, config["BLOCK_C"] + 1
    pixels = make_tensor((tiles, 20, channels)).double() + 100 + torch.arange(tiles).view(-1, 1, 1) / 10
    counts = torch.full((tiles, channels), 20.0).double()
    pixels[-1, 7:], counts[-1] = torch.nan, 7
    means = pixels.nanmean(1, keepdim=True).round(decimals=1)
    values = [counts, means[:, 0], (pixels - means).nansum(1), (pixels - means).square().nansum(1)]
    room = torch.cat(
        [torch.stack(values, 1), torch.full((2, 4, channels), torch.nan).double()]
    )  # rows that no tile has written
    mean, var = Moments(room, torch.tensor([tiles], dtype=torch.int32)).statistics(torch.empty(0))
    flat = pixels.flatten(0, 1)[: 20 * tiles - 13]
    torch.testing.assert_close(mean, flat.mean(0).float())
    torch.testing.assert_close(var, flat.var(0, correction=0).float())


def sum_partials(config, dtype, last, name):
    from cnnext.triton.reduce import sum_partials

    partial = make_tensor((3, config["BLOCK"] + 3))
    output = torch.full(partial.shape[1:], torch.nan, dtype=dtype)
    sum_partials(partial, output)
    torch.testing.assert_close(output, partial.double().sum(0).to(dtype))


RUNS = {
    "implicit_gemm": gemm,
    "depthwise": depthwise,
    "max_pool2d": max_pool2d,
    "adaptive_avg_pool2d": adaptive_avg_pool2d,
    "avg_pool2d": avg_pool2d,
    "batch_norm": batch_norm,
    "corr2d": corr2d,
    "statistics": statistics,
    "sum_partials": sum_partials,
}
"""What runs a kernel: the first whose key is in the kernel's name."""


def variants():
    """(kernel, config, dtype) for every config, and float32 where it may be chosen for that, else float16."""
    from cnnext.triton.target import TARGETS

    for kernel in kernels().values() if REASON is None else ():
        for config in kernel.configs:
            kinds = [kind for target in TARGETS.values() for kind in kind_of(kernel, config, target)]
            assert kinds, f"{kernel.name} never runs with [{config}]"
            values = "-".join(map(str, config.kwargs.values()))
            label = f"{kernel.name}-{values}-{config.num_warps} warps"
            marks = () if config is kernel.configs[0] else pytest.mark.slow
            yield pytest.param(kernel, config, getattr(torch, max(kinds)), id=label, marks=marks)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize(("kernel", "config", "dtype"), [*variants()])
def test_config(kernel, config, dtype, channels_last, monkeypatch):
    chosen = []
    monkeypatch.setattr(kernel, "ranked", lambda *sizes: chosen.append(sizes) or [config])
    run = next(run for key, run in RUNS.items() if key in kernel.name)
    with cnnext.backend("triton"):
        run(config.kwargs, dtype, channels_last, kernel.name)
    assert chosen, f"{kernel.name} did not run"


def test_the_interpreter_finds_integers_that_overflow():
    import triton
    import triton.language as tl

    @triton.jit
    def square(x_ptr, size):
        tl.store(x_ptr, size * size)

    square[(1,)](torch.zeros(1, dtype=torch.int32), 46340)
    with pytest.raises(Exception, match="overflows in multiply"):
        square[(1,)](torch.zeros(1, dtype=torch.int32), 46341)
