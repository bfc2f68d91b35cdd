"""The short way to an op gives what the registered op gives, and steps aside where it must."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cnnext
import cnnext.functional as F
from cnnext.backends import CPU
from cnnext.testing import make_tensor

ROOT = Path(__file__).resolve().parent.parent
WINDOW = ((2, 2), (2, 2), (0, 0))


@pytest.fixture(autouse=True)
def our_kernels():
    with cnnext.backend("cpu"):
        yield


@pytest.mark.parametrize("grad", [False, True])
def test_same_values_and_gradients_as_the_registered_op(grad):
    results = []
    for ops in (CPU.ops, torch.ops.cnnext):
        x = make_tensor((2, 3, 8, 8), requires_grad=grad)
        output = ops.avg_pool2d(x, *WINDOW, False, True, None)
        assert output.requires_grad is grad
        results.append((output, *(torch.autograd.grad(output.square().sum(), x) if grad else ())))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_no_graph_is_kept_without_gradients():
    x = make_tensor((1, 1, 4, 4), requires_grad=True)
    with torch.no_grad():
        assert F.avg_pool2d(x, 2).grad_fn is None
    with torch.inference_mode():
        assert F.avg_pool2d(x, 2).is_inference()


def test_function_transforms_differentiate():
    x = make_tensor((1, 1, 4, 4))
    gradient = torch.func.grad(lambda x: F.avg_pool2d(x, 2).square().sum())(x)
    expected = torch.func.grad(lambda x: torch.nn.functional.avg_pool2d(x, 2).square().sum())(x)
    torch.testing.assert_close(gradient, expected)


def test_dispatch_modes_see_the_op():
    seen = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Spy():
        F.avg_pool2d(make_tensor((1, 1, 4, 4)), 2)
    assert torch.ops.cnnext.avg_pool2d.default in seen


def test_an_input_changed_before_the_backward_is_noticed():
    x = make_tensor((1, 1, 4, 4), requires_grad=True)
    weight = make_tensor((1, 1, 2, 2), seed=1).requires_grad_()
    output = F.conv2d(x, weight)
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_an_op_may_be_compiled_before_its_first_eager_call():
    code = "import torch, cnnext; f = torch.compile(cnnext.functional.corr2d, fullgraph=True, backend='aot_eager')"
    code += "; print(f(torch.ones(3, 3), torch.ones(2, 2)).tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[[4.0, 4.0], [4.0, 4.0]]\n", done.stderr
