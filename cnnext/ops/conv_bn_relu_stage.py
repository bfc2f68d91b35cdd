"""A convolution with its batch norm, as an argument: what it is made of, and whether it fits together."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from cnnext.ops.arguments import pair, require_optional_tensor, require_same_device, require_tensor
from cnnext.ops.conv2d_shape import Pair, conv_output_shape, named_padding
from cnnext.ops.precision import float32_shortcuts


class ConvBN(NamedTuple):
    """A convolution and the batch norm behind it, for :func:`residual_block` and :func:`conv_bn_relu_chain`.

    Attributes:
        weight, bias, stride, padding, dilation, groups: of the convolution, as for ``conv2d``.
        bn_weight, bn_bias, running_mean, running_var, momentum, eps: of the norm, as for ``batch_norm``.
        training: whether the norm uses, and learns, the statistics of the batch.
        norm: whether there is a norm.
        process_group: processes whose batches share their statistics in training; None: this one alone.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    bn_weight: torch.Tensor | None = None
    bn_bias: torch.Tensor | None = None
    running_mean: torch.Tensor | None = None
    running_var: torch.Tensor | None = None
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5
    stride: int | Pair = 1
    padding: str | int | Pair = 0
    dilation: int | Pair = 1
    groups: int = 1
    norm: bool = True
    process_group: Any = None

    @property
    def trains(self) -> bool:
        """Whether the statistics of the batch are wanted."""
        return self.norm and self.training


class Geometry(NamedTuple):
    """Where a convolution's taps lie, its arguments in the form that the ops take."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    extra: Pair
    """Zeros at the bottom and to the right, besides the padding on all sides."""

    def arguments(self, like: torch.Tensor) -> tuple[Any, ...]:
        """The last arguments of a conv2d op for inputs like ``like``."""
        return (self.stride, self.padding, self.dilation, self.groups, *float32_shortcuts(like))


def geometry_of(stage: ConvBN) -> Geometry:
    """Normalise stride, padding, dilation and groups.

    Raises:
        TypeError, RuntimeError: one of them is none.
    """
    require_tensor(stage.weight, "weight")
    stride, dilation, extra = pair(stage.stride, "stride"), pair(stage.dilation, "dilation"), (0, 0)
    if isinstance(stage.padding, str):
        padding, extra = named_padding(stage.weight, stage.padding, stride, dilation)
    else:
        padding = pair(stage.padding, "padding")
    if not isinstance(stage.groups, int) or isinstance(stage.groups, bool):
        raise TypeError(f"argument `groups` must be an int, but got {stage.groups!r}")
    return Geometry(stride, padding, dilation, stage.groups, extra)


def output_shape(shape: Any, stage: ConvBN, geometry: Geometry) -> Any:
    """Shape that the stage makes of an input of ``shape``.

    Raises:
        RuntimeError: they do not fit.
    """
    if len(shape) == 4:
        n, c, h, w = shape
        shape = (n, c, h + geometry.extra[0], w + geometry.extra[1])
    return conv_output_shape(shape, stage.weight.shape, *geometry[:4])


def check_stage(input: torch.Tensor, stage: ConvBN, shape: Any) -> None:
    """Check everything but the sizes of the convolution; ``shape`` is that of its output.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`cnnext.functional.conv_bn_relu`.
    """
    require_optional_tensor(stage.bias, "bias")
    require_same_device("input", input, "weight", stage.weight)
    require_same_device("input", input, "bias", stage.bias)
    if stage.norm:
        _check_norm(input, stage, shape)


def _check_norm(input: torch.Tensor, stage: ConvBN, shape: Any) -> None:
    if not isinstance(stage.training, bool):
        raise TypeError(f"argument `training` must be a bool, but got {stage.training!r}")
    for name, value in (("momentum", stage.momentum), ("eps", stage.eps)):
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise TypeError(f"argument `{name}` must be a float, but got {value!r}")
    _check_channels(input, stage, shape[1])
    for name in ("running_mean", "running_var"):
        if (tensor := getattr(stage, name)) is not None and tensor.requires_grad:
            raise RuntimeError(f"`{name}` must not require a gradient: conv_bn_relu has none for it")
    if (stage.running_mean is None) != (stage.running_var is None):
        raise ValueError("`running_mean` and `running_var` must either both be None or neither be None")
    if not stage.training and stage.running_mean is None:
        raise RuntimeError("`running_mean` and `running_var` must be given when training=False, but got None")
    alone = stage.process_group is None  # otherwise the other processes may have more values
    if alone and stage.training and shape[0] * shape[2] * shape[3] == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {torch.Size(shape)}")
    if stage.eps < 0 or (stage.training and stage.eps == 0):
        raise ValueError(f"conv_bn_relu eps must be positive in training, else non-negative, but got {stage.eps}")


def _check_channels(input: torch.Tensor, stage: ConvBN, channels: int) -> None:
    dtypes: dict[str, torch.dtype] = {}
    for name in ("bn_weight", "bn_bias", "running_mean", "running_var"):
        tensor = getattr(stage, name)
        if tensor is None:
            continue
        require_tensor(tensor, name)
        require_same_device("input", input, name, tensor)
        if tensor.dim() != 1 or tensor.size(0) != channels:
            raise RuntimeError(
                f"expected `{name}` of shape [{channels}], one value per channel of the output, but got shape "
                f"{list(tensor.shape)}"
            )
        narrow = input.dtype in (torch.float16, torch.bfloat16)
        if tensor.dtype != input.dtype and not (narrow and tensor.dtype == torch.float32):
            also = " or torch.float32" if narrow else ""
            raise RuntimeError(f"expected `{name}` of dtype {input.dtype}{also}, but got {tensor.dtype}")
        dtypes[name] = tensor.dtype
    if len(set(dtypes.values())) > 1:
        found = ", ".join(f"`{name}` of {dtype}" for name, dtype in dtypes.items())
        raise RuntimeError(f"expected the norm's parameters and running statistics of one dtype, but got {found}")


def check_residual(residual: torch.Tensor | None, input: torch.Tensor, shape: Any) -> None:
    """Check that ``residual`` can be added to an output of ``shape``.

    Raises:
        RuntimeError: its shape, dtype or device is another.
    """
    if residual is None:
        return
    require_same_device("input", input, "residual", residual)
    if tuple(residual.shape) != tuple(shape):
        raise RuntimeError(f"expected `residual` of the output's shape {list(shape)}, but got {list(residual.shape)}")
    if residual.dtype != input.dtype:
        raise RuntimeError(f"expected `residual` of `input`'s dtype {input.dtype}, but got {residual.dtype}")
