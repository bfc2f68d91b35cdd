"""The backend ``"auto"``: that it measures every op, and what a measurement leaves alone."""

import json

import pytest
import torch

import cnnext
import cnnext.functional as F
from cnnext import auto
from cnnext.backends import current
from cnnext.testing import make_tensor

pytestmark = [
    pytest.mark.usefixtures("choices_file"),
    pytest.mark.skipif(cnnext.library.cpu_unavailable is not None, reason="there is no choice without a library"),
]

CALLS = {
    "conv2d": lambda x: F.conv2d(x, make_tensor((6, 4, 3, 3), seed=1), make_tensor((6,), seed=2), padding=1),
    "conv2d same": lambda x: F.conv2d(x, make_tensor((6, 4, 3, 3), seed=1), padding="same", stride=[1, 1]),
    "conv2d unbatched": lambda x: F.conv2d(x[0], make_tensor((6, 4, 3, 3), seed=1)),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x, make_tensor((4, 6, 3, 3), seed=1), None, 2),
    "max_pool2d": lambda x: F.max_pool2d(x, 2, return_indices=True)[1],
    "avg_pool2d": lambda x: F.avg_pool2d(x, [2, 3]),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 3),
    "batch_norm": lambda x: F.batch_norm(x, torch.zeros(4), torch.ones(4), training=True),
    "conv_bn_relu": lambda x: F.conv_bn_relu(
        x,
        make_tensor((4, 4, 3, 3), seed=1),
        None,
        None,
        None,
        torch.zeros(4),
        torch.ones(4),
        x,
        training=True,
        padding=1,
    ),
    "conv_bn_relu in evaluation": lambda x: F.conv_bn_relu(
        x, make_tensor((6, 4, 3, 3), seed=1), None, torch.ones(6), torch.ones(6), torch.zeros(6), torch.ones(6)
    ),
    "corr2d": lambda x: F.corr2d(x[0, 0], make_tensor((2, 2), seed=1)),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("grad", [False, True])
def test_every_op_is_measured_once_and_right(name, grad, choices_file):
    x = make_tensor((2, 4, 8, 9), requires_grad=grad)
    first = CALLS[name](x)
    count = len(auto.measured)
    assert count >= 1 and all(set(times) == {"cpu", "torch"} for _, times in auto.measured)
    assert torch.equal(CALLS[name](x), first) and len(auto.measured) == count and x.grad is None
    with cnnext.backend("torch"):
        torch.testing.assert_close(first, CALLS[name](x))
    fastest = {kind: min(times, key=times.get) for kind, times in auto.measured}
    assert json.loads(choices_file.read_text()) == fastest


class TestWhatAMeasurementLeavesAlone:
    def test_running_statistics_change_once(self):
        mean, var = torch.zeros(4), torch.ones(4)
        x = make_tensor((2, 4, 8, 8)) + 5
        F.batch_norm(x, mean, var, training=True)
        assert len(auto.measured) == 1
        torch.testing.assert_close(mean, 0.1 * x.mean((0, 2, 3)))

    def test_running_statistics_of_a_fused_layer_change_once(self):
        mean, var, x = torch.zeros(4), torch.ones(4), make_tensor((2, 4, 8, 8)) + 5
        weight = torch.eye(4)[:, :, None, None]
        F.conv_bn_relu(x, weight, None, None, None, mean, var, training=True)
        assert auto.measured
        torch.testing.assert_close(mean, 0.1 * x.mean((0, 2, 3)))

    def test_the_callers_hooks_modes_and_backend(self):
        packed = []
        x = make_tensor((2, 4, 8, 8), requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
            F.conv2d(x, make_tensor((4, 4, 3, 3), seed=1, requires_grad=True))
        assert len(auto.measured) == 1 and len(packed) == 2 and current() == "auto"
        assert auto._thread.forced is None

    def test_in_inference_mode(self):
        with torch.inference_mode():
            F.avg_pool2d(make_tensor((2, 4, 8, 8)), 2)
        assert len(auto.measured) == 1

    def test_wrong_arguments_are_refused_as_ever(self):
        with pytest.raises(RuntimeError, match="weight"):
            F.conv2d(make_tensor((2, 4, 8, 8)), make_tensor((4, 5, 3, 3)))
        assert auto.measured == []
