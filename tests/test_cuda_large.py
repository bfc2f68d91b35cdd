"""Tensors of more than 2^31 elements under the CUDA kernels, emulated: offsets that 32 bits do not hold.

Kernels step over nearly all of such a tensor, so that nearly none of its pages are ever in memory: windows are one or
two pixels wide, 128 pixels apart.
"""

import emulated
import pytest
import torch
import torch.nn.functional as torch_functional
from emulator import build

import cnnext
import cnnext.functional as F
from cnnext.testing import make_tensor

pytestmark = pytest.mark.skipif(emulated.unavailable() is not None, reason=str(emulated.unavailable()))

STEP = 128
MANY_IMAGES, ONE_IMAGE = (40, 8, 2900, 2900), (1, 1, 46400, 46400)
"""2.7·10⁹ elements in images of 6.7·10⁷, and 2.2·10⁹ in one."""
both_layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
both_shapes = pytest.mark.parametrize("shape", [MANY_IMAGES, ONE_IMAGE], ids=["many images", "one image"])


CONVOLUTIONS = {
    "direct": ("direct", MANY_IMAGES),
    "direct, one image": ("direct", ONE_IMAGE),
    "implicit_gemm": ("implicit_gemm", MANY_IMAGES),
    "tensor_core": ("tensor_core", MANY_IMAGES),
}


@pytest.fixture(autouse=True)
def emulator():
    """The emulator's control module, with the emulated backend in force and its counters at zero."""
    control = build.control()
    control.reset_counters()
    with cnnext.backend("emulated"):
        yield control


@pytest.fixture(params=CONVOLUTIONS)
def convolution_shape(request, monkeypatch, emulator):
    """Shape for a convolution by an algorithm, which must have run in the end."""
    algorithm, shape = CONVOLUTIONS[request.param]
    monkeypatch.setenv("CNNEXT_CONV2D", algorithm)
    yield shape
    assert any(algorithm in kernel for kernel in emulator.counters())


def unwritten(shape, channels_last):
    """A tensor whose memory torch leaves to the system, which has none for it until something is written."""
    assert torch.Size(shape).numel() > 2**31
    form = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=torch.float16, memory_format=form)


def far_apart(shape, channels_last, window=1):
    """(large, small): values lie in ``large`` where windows are at strides of STEP, and in ``small`` by themselves."""
    large = unwritten(shape, channels_last)
    n, c, h, w = shape
    windows = [(size - window) // STEP + 1 for size in (h, w)]
    size = (n, c, windows[0] * window, windows[1] * window)
    small = make_tensor(size, torch.float16, channels_last=channels_last, seed=1)
    for i in range(window):
        for j in range(window):
            reached = large[
                :, :, i : i + (windows[0] - 1) * STEP + 1 : STEP, j : j + (windows[1] - 1) * STEP + 1 : STEP
            ]
            reached.copy_(small[:, :, i::window, j::window])
    return large, small


@both_layouts
def test_conv2d_and_the_gradient_of_its_weight(convolution_shape, channels_last):
    large, small = far_apart(convolution_shape, channels_last)
    weight, bias = (
        make_tensor(shape, torch.float16, seed=2 + i) for i, shape in enumerate([(4, large.shape[1], 1, 1), (4,)])
    )
    ours = F.conv2d(large, weight, bias, stride=STEP)
    torch.testing.assert_close(ours, torch_functional.conv2d(small, weight, bias))

    def of_weight(function, x, **arguments):
        leaf = weight.clone().requires_grad_()
        function(x, leaf, **arguments).sum().backward()
        return leaf.grad

    expected = of_weight(torch_functional.conv2d, small)
    torch.testing.assert_close(of_weight(F.conv2d, large, stride=STEP), expected, rtol=5e-3, atol=5e-2)


@both_layouts
def test_gradient_of_an_input_inside_of_much_padding(convolution_shape, channels_last):
    n, k, p, q = convolution_shape
    grad, padding, size = unwritten(convolution_shape, channels_last), (p // 2 - 3, q // 2 - 3), (n, 4, 6, 6)
    inside = make_tensor((n, k, 6, 6), torch.float16, channels_last=channels_last, seed=1)
    grad[:, :, padding[0] : padding[0] + 6, padding[1] : padding[1] + 6] = inside
    weight = make_tensor((k, 4, 1, 1), torch.float16, seed=2)
    ours = torch.ops.cnnext_emulated.conv2d_backward_input(grad, weight, size, (1, 1), padding, (1, 1), 1, False, False)
    torch.testing.assert_close(ours, torch_functional.conv_transpose2d(inside, weight))


@both_layouts
@both_shapes
def test_pools(shape, channels_last):
    large, small = far_apart(shape, channels_last, window=2)
    arguments = {"kernel_size": 2, "stride": STEP}
    output, indices = F.max_pool2d(large, **arguments, return_indices=True)
    expected, places = torch_functional.max_pool2d(small, 2, return_indices=True)
    torch.testing.assert_close(output, expected)
    rows, columns = places // small.shape[3], places % small.shape[3]
    at = [place // 2 * STEP + place % 2 for place in (rows, columns)]
    torch.testing.assert_close(indices, at[0] * shape[3] + at[1])
    torch.testing.assert_close(F.avg_pool2d(large, **arguments), torch_functional.avg_pool2d(small, 2))
