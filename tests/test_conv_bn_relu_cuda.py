"""The CUDA kernels of the fused convolution, emulated: what tests/test_conv_bn_relu*.py do not reach of them.

Those run over the same kernels, on small shapes; here are every way that the norm's passes walk through memory, with
every kind of gate, and the faults and figures that only the traced build reports.
"""

import emulated
import pytest
import torch
from test_batch_norm_cuda import CASES, chosen
from tracing import SECTORS_ALLOWED, sector_ratios, shifted, trace_accesses  # noqa: F401

from cnnext.testing import assert_as_exact_as_torch, make_tensor

pytestmark = pytest.mark.skipif(emulated.unavailable() is not None, reason=str(emulated.unavailable()))

EPS = 1e-5
GATES = {"no relu": (False, False), "relu": (True, False), "residual": (True, True), "residual, no relu": (False, True)}
every_gate = pytest.mark.parametrize("gate", GATES.values(), ids=GATES)


def parameters_of(channels):
    """Weight and bias of a norm."""
    return make_tensor((channels,), seed=4), make_tensor((channels,), seed=5)


def of_torch(x, weight, bias, g):
    """The norm and its gradients."""
    none = [None] * 2
    y, mean, invstd = torch.native_batch_norm(x, weight, bias, *none, True, 0.1, EPS)
    saved = (mean, invstd, True, EPS, [True] * 3)
    return y, *torch.ops.aten.native_batch_norm_backward(g, x, weight, *none, *saved)


def by_definition(x, weight, bias, g):
    axes, shape = (0, 2, 3), (1, -1, 1, 1)
    var, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    normal, scale = (x - mean) * (var + EPS).rsqrt(), weight.view(shape) * (var + EPS).rsqrt()
    along = normal * (g * normal).mean(axes, keepdim=True)
    to_x = scale * (g - g.mean(axes, keepdim=True) - along)
    return normal * weight.view(shape) + bias.view(shape), to_x, (g * normal).sum(axes), g.sum(axes)


def layer(norm, output, relu):
    """Output, gradients of input, weight and bias, and of the residual where there is one; with ``output``'s mask."""

    def run(x, grad, weight, bias, *residual):
        wide = x.dtype if x.dtype == torch.float64 else torch.float32
        g = torch.where(output <= 0, 0, grad) if relu else grad
        y, to_x, *to_parameters = norm(x.to(wide), weight, bias, g.to(wide))
        y = y + residual[0] if residual else y
        tensors = (y.relu() if relu else y, to_x, *to_parameters, *(g for _ in residual))
        return tuple(t if 2 <= i < 4 else t.to(x.dtype) for i, t in enumerate(tensors))

    return run


def check(namespace, x, gate):
    relu, has_residual = gate
    ops = getattr(torch.ops, namespace)
    grad, residual = (torch.empty_like(x).copy_(make_tensor(tuple(x.shape), x.dtype, seed=seed)) for seed in (6, 7))
    parameters = [t.to(torch.promote_types(x.dtype, torch.float32)) for t in parameters_of(x.shape[1])]
    norm = (*batch_statistics(x), *parameters)
    y = ops.batch_norm_relu(x, *norm, residual if has_residual else None, relu, EPS)
    gradients = ops.batch_norm_relu_backward(grad, x, *norm, y if has_residual else None, relu, EPS)
    to_x, to_residual, *to_parameters = gradients
    assert y.stride() == to_x.stride()
    ours = (y, to_x, *to_parameters, *([to_residual] if has_residual else []))
    functions = (layer(norm, y, relu) for norm in (by_definition, of_torch))
    assert_as_exact_as_torch(ours, *functions, x, grad, *parameters, *([residual] if has_residual else []))


def batch_statistics(x):
    wide = x.double()
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return wide.mean((0, 2, 3)).to(dtype), wide.var((0, 2, 3), correction=0).to(dtype)


@every_gate
@pytest.mark.parametrize(("config", "shape", "channels_last", "dtype"), CASES)
def test_norms_walk_every_way(config, shape, channels_last, dtype, gate):
    x = make_tensor(shape, dtype, channels_last=channels_last)
    assert chosen(x)[0] == config
    check("cnnext_emulated", x, gate)


@every_gate
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_norms_are_sound_and_waste_no_sectors(channels_last, gate, traced):
    for dtype in (torch.float32, torch.float16):
        x = make_tensor((2, 64, 16, 16), dtype, channels_last=channels_last)
        with sector_ratios(traced) as ratios:
            check("cnnext_traced", x, gate)
        passes = {
            kernel: ratios[f"batch_norm_{kernel}_kernel"] for kernel in ("apply", "backward_sums", "backward_apply")
        }
        assert max(passes.values()) <= SECTORS_ALLOWED, ratios
    check("cnnext_traced", shifted(make_tensor((2, 7, 5, 3), torch.bfloat16, channels_last=channels_last)), gate)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_gradient_from_sums_of_several_processes(dtype):
    """Sums and count twice as large stand for a second process with the same values: the same gradient."""
    ops, x = torch.ops.cnnext_emulated, make_tensor((2, 6, 5, 3), dtype)
    norm, grad = (
        (*batch_statistics(x), *(t.to(dtype) for t in parameters_of(6))),
        make_tensor((2, 6, 5, 3), dtype, seed=6),
    )
    whole = ops.batch_norm_relu_backward(grad, x, *norm, None, True, EPS)
    sums = [2 * total for total in ops.batch_norm_relu_backward_sums(grad, x, *norm, None, True, EPS)]
    of_two = ops.batch_norm_relu_backward_apply(grad, x, *norm, None, *sums, 2 * 30, True, EPS)
    torch.testing.assert_close(of_two[0], whole[0])
