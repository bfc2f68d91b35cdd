"""The chooser of the CUDA pools' configs (csrc/cuda/pool2d_config.cu), called without a device."""

import ctypes

import emulated

from cnnext.ops.pool2d_shape import pool_output_shape

MULTIPROCESSORS = 16
"""Of the emulated device."""


class Axis(ctypes.Structure):
    names = ("size", "windows", "taps", "stride", "pad", "dilation", "adaptive")
    _fields_ = [(name, ctypes.c_int64) for name in names]


class Problem(ctypes.Structure):
    """What csrc/cuda/pool2d_config.cu chooses a config for."""

    names = ("backward", "is_sum", "value_bytes", "tap_bytes", "aligned", "multiprocessors")
    _fields_ = [
        ("planes", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("rows", Axis),
        ("columns", Axis),
        *((name, ctypes.c_int64) for name in names),
    ]


def explain(problem):
    """The chooser's answer: the problem, then a line for each config passed over, with the reason, then the chosen."""
    text = ctypes.create_string_buffer(4096)
    emulated.choosers().cnnext_explain_pool2d(ctypes.byref(problem), text, len(text))
    return text.value.decode()


def divide_index(n, divisor):
    """n // divisor as the kernels calculate it."""
    divide = emulated.choosers().cnnext_divide_index
    divide.argtypes = [ctypes.c_int64, ctypes.c_int64]
    divide.restype = ctypes.c_int64
    return divide(n, divisor)


def configs():
    """The names in the table, in order of preference."""
    names = emulated.choosers().cnnext_pool2d_configs
    names.restype = ctypes.c_char_p
    return names().decode().split()


def chosen(problem):
    """The name of the config that runs."""
    return explain(problem).splitlines()[-1].split(":")[0]


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def uniform_problem(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, *, backward, is_max):
    """A pass of max_pool2d or avg_pool2d for ``x``, channels_last if that is its layout."""
    kernel, pad, dil = map(_pair, (kernel_size, padding, dilation))
    steps = _pair(stride or kernel_size)
    n, c, *windows = pool_output_shape(x, kernel, steps, pad, dil, ceil_mode)
    axes = [Axis(x.shape[2 + i], windows[i], kernel[i], steps[i], pad[i], dil[i], False) for i in (0, 1)]
    planes, channels = (n * c, 1) if x.is_contiguous() else (n, c)
    tap_bytes = 0 if not is_max else 1 if kernel[0] * kernel[1] <= 256 else 4
    aligned = x.data_ptr() % 16 == 0
    return Problem(planes, channels, *axes, backward, not is_max, x.element_size(), tap_bytes, aligned, MULTIPROCESSORS)


def adaptive_problem(x, output_size, *, backward):
    """A pass of adaptive_avg_pool2d for ``x``, channels_last if that is its layout."""
    n, c, *sizes = x.shape
    axes = []
    for size, windows in zip(sizes, _pair(output_size), strict=True):
        even = size % windows == 0
        axes.append(Axis(size, windows, size // windows, max(size // windows, 1), 0, 1, not even))
    planes, channels = (n * c, 1) if x.is_contiguous() else (n, c)
    return Problem(
        planes, channels, *axes, backward, True, x.element_size(), 0, x.data_ptr() % 16 == 0, MULTIPROCESSORS
    )
