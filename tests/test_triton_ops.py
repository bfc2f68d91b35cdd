"""What the op tests do not ask of Triton's kernels: refusals, the convolution's epilogue, the view of torch.compile."""

import os
import subprocess
import sys
import textwrap

import pytest
import test_batch_norm_op
import test_conv2d
import test_corr2d
import torch

import cnnext
import cnnext.functional as F
from cnnext.backends import get
from cnnext.testing import make_tensor

REASON = get("triton").can_run("corr2d", torch.device("cpu"), torch.float32)
interpreted = pytest.mark.skipif(REASON is not None, reason=f"the kernels are not interpreted: {REASON}")


def cases_of(test):
    """The arguments for which a test of another module is run."""
    return next(mark.args[1] for mark in test.pytestmark if "arguments" in mark.args[0])


REFUSALS = [
    *(("corr2d", *case) for case in cases_of(test_corr2d.test_refusals)),
    *(("conv2d", *case) for case in cases_of(test_conv2d.test_refusals)),
    *(("batch_norm", *case) for case in cases_of(test_batch_norm_op.test_refusals)),
]


@interpreted
@pytest.mark.parametrize(("op", "arguments", "error", "words"), REFUSALS)
def test_what_the_cpu_refuses_is_refused_in_the_same_words(op, arguments, error, words):
    with cnnext.backend("triton"), pytest.raises(error, match=words):
        getattr(F, op)(*arguments)


@interpreted
@pytest.mark.parametrize(("op", "arguments"), cases_of(test_batch_norm_op.test_ops_refuse_nonsense))
def test_ops_refuse_nonsense(op, arguments):
    with pytest.raises(RuntimeError, match="expected"):
        getattr(torch.ops.cnnext_triton, op)(*arguments)


@interpreted
@pytest.mark.parametrize("groups", [1, 6], ids=["GEMM", "depthwise"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_epilogue(dtype, channels_last, groups):
    from cnnext.triton.conv2d import convolve
    from cnnext.triton.conv2d_epilogue import Epilogue

    shape, geometry = (2, 6, 9, 8), ((1, 1), (1, 1), (1, 1), groups)
    x, residual = (make_tensor(shape, dtype, channels_last=channels_last, seed=seed) for seed in (1, 2))
    weight, bias = make_tensor((6, 6 // groups, 3, 3), dtype, seed=3), make_tensor((6,), dtype, seed=4)
    output, moments = convolve(x, weight, geometry, Epilogue(bias, residual, relu=True, statistics=True), False)
    exact = torch.nn.functional.conv2d(x.double(), weight.double(), bias.double(), padding=1, groups=groups)
    torch.testing.assert_close(output, (exact + residual.double()).relu().to(dtype))
    var, mean = torch.var_mean(output.double(), (0, 2, 3), correction=0)
    torch.testing.assert_close(moments.statistics(x), (mean.float(), var.float()))


@interpreted
@pytest.mark.parametrize("groups", [1, 6], ids=["GEMM", "depthwise"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_statistics_far_from_zero(kernel, groups):
    """What the squares are of is 1e-4 of the mean: Σy² − (Σy)²/n would have no digit left."""
    x, weight = make_tensor((3, 6, 21, 20), seed=1), make_tensor((6, 6 // groups, kernel, kernel), seed=2)
    bias = torch.full((6,), 1e4)
    geometry = ((1, 1), (0, 0), (1, 1), groups, False, False)
    output, mean, var = torch.ops.cnnext_triton.conv2d_statistics(x, weight, bias, *(None,) * 4, 0.0, *geometry)
    exact_var, exact_mean = torch.var_mean(output.double(), (0, 2, 3), correction=0)
    torch.testing.assert_close((mean, var), (exact_mean.float(), exact_var.float()))


@interpreted
def test_images_one_pixel_wide():
    """Such an image counts as contiguous whatever the step from column to column, of which there is one."""
    x = make_tensor((3, 4, 1, 7)).mT
    assert x.is_contiguous() and x.stride(3) == 7
    expected = torch.nn.functional.batch_norm(x, None, None, training=True)
    with cnnext.backend("triton"):
        torch.testing.assert_close(F.batch_norm(x, None, None, training=True), expected)


@interpreted
def test_fused_layers_run_fused(monkeypatch):
    from cnnext.triton import launch

    launched = []
    monkeypatch.setattr(launch, "_run_first_that_can", lambda kernel, *_: launched.append(kernel.name))
    x, weight, values = torch.zeros(2, 4, 6, 5), torch.zeros(4, 4, 3, 3), torch.ones(4)
    norm = (values, values, values.clone(), values.clone())
    with cnnext.backend("triton"), torch.no_grad():
        stages = [F.ConvBN(weight, None, *norm, True, padding=1) for _ in range(2)]
        F.residual_block(x, stages)
        training, launched = launched, []
        monkeypatch.setattr(launch, "_run_first_that_can", lambda kernel, *_: launched.append(kernel.name))
        F.conv_bn_relu(x, weight, None, *norm, x, padding=1)
    passes = ["conv2d_forward_implicit_gemm_kernel", "conv2d_statistics_kernel", "batch_norm_update_kernel"]
    coefficients = "batch_norm_coefficients_kernel"
    assert training == [*passes, coefficients, *passes, coefficients, "batch_norm_apply_kernel"]
    assert launched == ["conv2d_forward_implicit_gemm_kernel"]


@interpreted
def test_relu_of_the_epilogue_keeps_nan():
    from cnnext.triton.conv2d import convolve
    from cnnext.triton.conv2d_epilogue import Epilogue

    x = make_tensor((1, 2, 4, 4))
    x[0, 0, 1, 1] = torch.nan
    output, moments = convolve(x, make_tensor((3, 2, 1, 1)), ((1, 1), (0, 0), (1, 1), 1), Epilogue(relu=True), False)
    assert output[..., 1, 1].isnan().all() and output.isnan().sum() == 3
    assert moments is None


@pytest.mark.skipif(REASON is not None and "not installed" in REASON, reason="triton is not installed")
def test_tracing_sees_the_kernels():
    program = """
        import torch
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch._subclasses.functional_tensor import dispatch_functionalize
        from torch.fx.experimental.proxy_tensor import make_fx
        from cnnext.triton import support
        support.load()

        ops = torch.ops.cnnext_triton

        def step(x, weight, image, mean):
            geometry = ((1, 1), (1, 1), (1, 1), 1, False, False)
            y = ops.conv2d(x, weight, None, *geometry)
            grads = ops.conv2d_backward_weight(y, x, weight.shape, *geometry)
            window = ((3, 3), (2, 2), (1, 1))
            pooled, tap = ops.max_pool2d(y, *window, (1, 1), False)
            unpooled = ops.max_pool2d_backward(pooled, tap, y.shape, *window, (1, 1))
            average = ops.adaptive_avg_pool2d(ops.avg_pool2d(y, *window, False, True, None), (1, 1))
            normal, new_mean, var = ops.batch_norm(y, mean, None, None, None, True, 1e-5)
            ops.batch_norm_update_(mean, var, new_mean, var, 162, 0.1)
            fused = ops.conv2d_statistics(y, weight[:, :4], None, mean, var, mean, mean, 1e-5, *geometry)
            norm = ops.batch_norm_relu(fused[0], *fused[1:], mean, mean, y, True, 1e-5)
            back = ops.batch_norm_relu_backward(y, fused[0], *fused[1:], mean, mean, norm, True, 1e-5)
            return *grads, *back, unpooled, average, normal, ops.corr2d(image, image[:2, :2])

        with FakeTensorMode():
            shapes = ((2, 8, 9, 9), (4, 8, 3, 3), (7, 7), (4,))
            graph = make_fx(dispatch_functionalize(step))(*(torch.empty(shape, device="cuda") for shape in shapes))
        targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        print(*{target for target in targets if "triton" in target}, sum("triton_kernel" in t for t in targets))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["triton_kernel_wrapper_functional", "22"]  # one for each launch
