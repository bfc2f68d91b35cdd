"""Convolutions and norms that are modules, run through the fused ops."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch

from cnnext import functional as F
from cnnext.nn import folding, layers
from cnnext.nn.sync import SyncBatchNorm, group_of
from cnnext.ops.arguments import pair

Link = tuple[Any, Any]
"""A convolution and its norm, or None in the norm's place."""

FUSED = (layers.Conv2d, layers.BatchNorm2d, SyncBatchNorm, torch.nn.ReLU)
"""What a fused op may stand for; a subclass may compute otherwise."""


def why_alone(module: torch.nn.Module) -> str | None:
    """Why a convolution, norm or ReLU must be called as a module of its own; None if a fused op may stand for it."""
    if type(module) not in FUSED:
        return f"it is a {type(module).__module__}.{type(module).__qualname__}"
    if has_hooks(module):
        return "it has a hook"
    if "forward" in module.__dict__:
        return "its forward method was replaced on the object"
    if type(module) is layers.Conv2d and module.padding_mode != "zeros":
        return f"its padding_mode is {module.padding_mode!r}"
    return None


def has_hooks(module: torch.nn.Module) -> bool:
    """Whether a call of ``module`` runs more than its ``forward``."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def may_fuse(input: Any, *modules: torch.nn.Module | None) -> bool:
    """Whether the fused ops may run these modules for ``input``; hooks on any of them must see their call."""
    if not isinstance(input, torch.Tensor) or input.dim() != 4 or torch.nn.modules.module._has_any_global_hook():
        return False
    return all(module is None or why_alone(module) is None for module in modules)


def run(
    input: torch.Tensor,
    links: Sequence[Link],
    residual: Any = None,
    relu: bool = True,
    add: Callable[..., Any] = operator.add,
) -> torch.Tensor:
    """Run convolutions with norms, a ReLU behind each but the last, which ``relu`` is for.

    Args:
        input: shape (N, C, H, W).
        links: (convolution, norm) modules, or (convolution, None), which :func:`may_fuse` has let pass.
        residual: what is added before the last ReLU, or None.
        relu: whether there is a last one.
        add: computes the sum where the residual is another than the fused op takes, such as one to be broadcast.
    """
    fits = residual is None or _fits(input, links, residual)
    inner = residual if fits else None
    output = F.conv_bn_relu_chain(input, [_stage(*link) for link in links], inner, relu and fits)
    if fits:
        return output
    output = add(output, residual)
    return torch.relu(output) if relu else output


def _fits(input: torch.Tensor, links: Sequence[Link], residual: Any) -> bool:
    """Whether the residual has shape, dtype and device of what it is added to, so that nothing is broadcast."""
    if not isinstance(residual, torch.Tensor) or residual.device != input.device:
        return False
    device, dtype = input.device.type, input.dtype
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    size = list(input.shape[2:])
    for conv, _ in links:
        size = [_output_size(conv, size[d], d) for d in (0, 1)]
    return residual.dtype == dtype and list(residual.shape) == [input.shape[0], links[-1][0].out_channels, *size]


def _output_size(conv: Any, size: int, d: int) -> int:
    spread = conv.dilation[d] * (conv.kernel_size[d] - 1)
    if isinstance(conv.padding, str):
        return size if conv.padding == "same" else size - spread
    return (size + 2 * pair(conv.padding, "padding")[d] - spread - 1) // conv.stride[d] + 1


def _stage(conv: Any, norm: Any) -> F.ConvBN:
    geometry = {name: getattr(conv, name) for name in ("stride", "padding", "dilation", "groups")}
    if norm is None:
        return F.ConvBN(conv.weight, conv.bias, norm=False, **geometry)
    if not norm.training and norm.running_mean is not None and norm.running_var is not None:
        values = folding.folded(conv, norm)
        if values is not None:
            return F.ConvBN(*values, norm=False, **geometry)
    else:
        folding.forget(norm)
    mean, var, training, momentum = layers.norm_arguments(norm)
    own = (conv.weight, conv.bias, norm.weight, norm.bias)
    return F.ConvBN(*own, mean, var, training, momentum, norm.eps, **geometry, process_group=group_of(norm))


def conv_bn(input: torch.Tensor, conv: Any, norm: Any) -> torch.Tensor:
    """``norm(conv(input))``, fused where it may be; without a norm ``conv(input)``."""
    if norm is not None and may_fuse(input, conv, norm):
        return run(input, [(conv, norm)], relu=False)
    output = conv(input)
    return output if norm is None else norm(output)
