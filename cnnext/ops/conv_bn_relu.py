"""conv_bn_relu: convolution, batch norm, residual and ReLU in one go, and the residual block made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cnnext.distributed import require_same_channels
from cnnext.ops import conv_bn_relu_specs  # noqa: F401  (declares the ops)
from cnnext.ops.conv2d_shape import Pair
from cnnext.ops.conv_bn_relu_chain import run
from cnnext.ops.conv_bn_relu_stage import ConvBN


def conv_bn_relu(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    bn_weight: torch.Tensor | None,
    bn_bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    residual: torch.Tensor | None = None,
    relu: bool = True,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    stride: int | Pair = 1,
    padding: str | int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    process_group: Any = None,
) -> torch.Tensor:
    """Convolution, batch norm, residual and ReLU, with fewer passes over memory than one by one.

    ``relu(batch_norm(conv2d(input, weight, bias)) + residual)``

    Args:
        input: shape (N, C, H, W); float32, float64, float16 or bfloat16.
        weight: shape (K, C / groups, R, S), of the same dtype and device.
        bias: shape (K,), of the same dtype and device, or None.
        bn_weight, bn_bias: shape (K,), the norm's, or None.
        running_mean, running_var: shape (K,), both or neither; needed without ``training``.
        residual: shape (N, K, P, Q), of the input's dtype and device, in any layout, or None. It is not broadcast.
        relu: whether negative values become zero.
        training: whether the norm uses, and learns, the statistics of the batch.
        momentum, eps: of the norm.
        stride, padding, dilation, groups: of the convolution.
        process_group: of ``torch.distributed``, whose processes' batches share their statistics in training, as those
            of ``torch.nn.SyncBatchNorm`` do; their N may differ, and be zero. All of them must call, forward and
            backward. None: this process alone.

    The norm's parameters and running statistics are of ``input``'s dtype, or all float32 where that has 16 bits.

    Returns:
        Shape (N, K, P, Q) and layout of ``conv2d``'s result.

    Raises:
        TypeError: an argument is of the wrong Python type.
        ValueError: training on a single value per channel, a wrong ``eps``, or only one running statistic.
        RuntimeError: shapes, values, dtypes or devices do not fit, or there are no running statistics without training;
            the text names the argument and its value. Also where this process is not in ``process_group``, or its
            processes have different numbers of channels.

    In training the convolution takes the statistics of its result while that is in the cache, and one pass normalises,
    adds and rectifies. Neither the normalised values nor the mask of the ReLU are kept for the backward pass, which
    computes them anew. In evaluation the norm goes into the weight and the bias, and the rest into the convolution's
    last step. Under autocast the input, the weight, the bias and the residual are cast as for ``conv2d``. Deterministic
    for any number of threads. Differentiable any number of times, with a process group once.
    Equivalent: ``F.relu(F.batch_norm(F.conv2d(...), ...) + residual)`` of torch.
    Source: Ioffe and Szegedy, "Batch Normalization" (2015); "Dive into Deep Learning", sections 8.5 and 8.6.
    """
    stage = ConvBN(
        weight,
        bias,
        bn_weight,
        bn_bias,
        running_mean,
        running_var,
        training,
        momentum,
        eps,
        stride,
        padding,
        dilation,
        groups,
        process_group=process_group,
    )
    if process_group is not None and stage.trains:
        require_same_channels(weight.shape[0], process_group)
    return conv_bn_relu_chain(input, (stage,), residual, relu)


def conv_bn_relu_chain(
    input: torch.Tensor, stages: Sequence[ConvBN], residual: torch.Tensor | None = None, relu: bool = True
) -> torch.Tensor:
    """Several :func:`conv_bn_relu`, one after the other, without writing the activations between them in training.

    The convolution of the next stage normalises and rectifies its input while it reads it, forward and backward.

    Args:
        input: shape (N, C, H, W).
        stages: one :class:`ConvBN` or more; all but the last end in a ReLU.
        residual: shape of the result, added before the last ReLU, or None.
        relu: whether the last stage has a ReLU.

    Returns:
        Shape and layout of the last convolution's result.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`conv_bn_relu`, or ``stages`` is empty.
    """
    return run(input, stages, residual, relu)


def residual_block(
    input: torch.Tensor, stages: Sequence[ConvBN], shortcut: ConvBN | None = None, relu: bool = True
) -> torch.Tensor:
    """A residual block: a chain of convolutions with batch norm, added to its input or to a convolution of that.

    ``relu(chain(input) + shortcut(input))``, where ``chain`` is :func:`conv_bn_relu_chain`. Two stages make the basic
    block, three the bottleneck, with groups that of ResNeXt.

    Args:
        input: shape (N, C, H, W).
        stages: one :class:`ConvBN` or more.
        shortcut: usually a 1×1 convolution, with a norm or without; None: the input itself is added.
        relu: whether there is a ReLU after the sum.

    Returns:
        Shape and layout of the last convolution's result.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`conv_bn_relu_chain`.

    Source: He et al., 2016; Xie et al., 2017; "Dive into Deep Learning", section 8.6.
    """
    residual = input if shortcut is None else conv_bn_relu_chain(input, (shortcut,), relu=False)
    return conv_bn_relu_chain(input, stages, residual, relu)


def conv_relu(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    relu: bool = True,
    stride: int | Pair = 1,
    padding: str | int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> torch.Tensor:
    """Convolution, residual and ReLU in one kernel: ``relu(conv2d(input, weight, bias) + residual)``.

    Args, result and errors are those of :func:`conv_bn_relu`. With weight and bias from :func:`fold_batch_norm` this
    is its evaluation.
    """
    stage = ConvBN(weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups, norm=False)
    return conv_bn_relu_chain(input, (stage,), residual, relu)
