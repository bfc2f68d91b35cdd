"""Put cnnext's layers into any model, in place, and take them out again.

A layer is swapped by changing its class: ours are torch's with another forward pass, so the object, its parameters,
buffers, hooks, training flag and place in every container stay what they are, and so do the references that an
optimizer or a tied layer holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from cnnext.backends import CHOOSERS, TORCH, backends, get
from cnnext.nn import fuse_model, layers
from cnnext.nn.sync import SyncBatchNorm

Kind = type[torch.nn.Module]

OURS: dict[Kind, Kind] = {
    torch.nn.AdaptiveAvgPool2d: layers.AdaptiveAvgPool2d,
    torch.nn.AvgPool2d: layers.AvgPool2d,
    torch.nn.BatchNorm2d: layers.BatchNorm2d,
    torch.nn.Conv1d: layers.Conv1d,
    torch.nn.Conv2d: layers.Conv2d,
    torch.nn.ConvTranspose2d: layers.ConvTranspose2d,
    torch.nn.LazyBatchNorm2d: layers.LazyBatchNorm2d,
    torch.nn.LazyConv1d: layers.LazyConv1d,
    torch.nn.LazyConv2d: layers.LazyConv2d,
    torch.nn.LazyConvTranspose2d: layers.LazyConvTranspose2d,
    torch.nn.MaxPool2d: layers.MaxPool2d,
    torch.nn.SyncBatchNorm: SyncBatchNorm,
}
THEIRS = {ours: theirs for theirs, ours in OURS.items()}
OPS = {
    layers.AdaptiveAvgPool2d: "adaptive_avg_pool2d",
    layers.AvgPool2d: "avg_pool2d",
    layers.BatchNorm2d: "batch_norm",
    layers.Conv1d: "conv2d",
    layers.Conv2d: "conv2d",
    layers.ConvTranspose2d: "conv2d_backward_input",
    layers.MaxPool2d: "max_pool2d",
    SyncBatchNorm: "batch_norm",
}
RELATED = (
    torch.nn.modules.conv._ConvNd,
    torch.nn.modules.pooling._MaxPoolNd,
    torch.nn.modules.pooling._AvgPoolNd,
    torch.nn.modules.pooling._AdaptiveAvgPoolNd,
    torch.nn.modules.pooling._AdaptiveMaxPoolNd,
    torch.nn.modules.pooling._LPPoolNd,
    torch.nn.modules.batchnorm._NormBase,
)
QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")


@dataclass
class SwapReport:
    """What :func:`swap` or :func:`unswap` did.

    Attributes:
        swapped: name of each layer whose class was changed, and the class it has now.
        left: name of each convolution, pool or norm that stayed as it was, and why.
        fused: name of the first layer of each chain that runs as one call, and the chain; None: not asked for.
        unfused: name of each convolution that runs by itself, or of the layer before which a chain ends, and why.
    """

    swapped: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    fused: dict[str, str] | None = None
    unfused: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"swapped {len(self.swapped)} layers, left {len(self.left)}"]
        lines += _lines(self.swapped) + _lines(self.left, "left, ")
        if self.fused is not None:
            lines += [f"fused {len(self.fused)} chains"] + _lines(self.fused) + _lines(self.unfused, "not fused, ")
        return "\n".join(lines)


def _lines(found: dict[str, str], what: str = "") -> list[str]:
    return [f"  {name or '(the model itself)'}: {what}{text}" for name, text in found.items()]


def swap(model: torch.nn.Module, fuse: bool = False) -> SwapReport:
    """Replace torch's layers in ``model`` by cnnext's, in place; ``model`` may itself be a layer.

    Args:
        model: any module. Only layers of exactly torch's class are touched: a subclass may have changed the forward
            pass, and is listed with that reason. A layer whose weight is parametrized is of such a subclass: swap
            first, and parametrize then.
        fuse: whether chains of convolution → norm → sum → ReLU, without one or two of the latter three, run as one
            call. They are looked for with torch.fx in the forward of each module, through ``torch.nn.Sequential``. A
            chain is fused where each result is used once, no layer has a hook or is called at several places,
            convolution and norm are in one mode, and nothing in between changes a value in place. What changes
            later (a hook, another layer, another attribute of the module) is seen at the next call. As always with
            torch.fx, a forward must not depend on more than tensors and its module's attributes.

    Returns:
        A :class:`SwapReport`, which prints as a list. Also left, and listed, are layers that are quantized, compiled by
        TorchScript, or called through a ``forward`` put on the object, and those for whose device and dtype no backend
        but torch's has kernels; what has no parameters counts as being where the model's first parameter is.

    Raises:
        TypeError: ``model`` is not a module, or ``fuse`` no bool.
    """
    _require_module(model)
    if not isinstance(fuse, bool):
        raise TypeError(f"argument `fuse` must be a bool, but got {fuse!r}")
    sample = next(model.parameters(), None)
    report = SwapReport()
    for name, module in model.named_modules():
        kind = type(module)
        wanted = OURS.get(kind)
        reason = _reason_for_class(module) if wanted is None else _reason_to_leave(module, wanted, sample)
        if reason is not None:
            report.left[name] = reason
        elif wanted is not None:
            module.__class__ = wanted
            report.swapped[name] = f"cnnext.nn.{wanted.__name__}"
    if fuse:
        report.fused, unfused = fuse_model.fuse(model)
        report.unfused = {name: reason for name, reason in unfused.items() if name not in report.left}
    return report


def unswap(model: torch.nn.Module) -> SwapReport:
    """Give every layer of ``model`` that is one of cnnext's its torch class back; the inverse of :func:`swap`.

    Args:
        model: any module. Layers that were made from cnnext.nn become torch's too.

    Returns:
        A :class:`SwapReport`, with the modules whose chains were fused. Left, and listed, are subclasses of cnnext's
        layers.

    Raises:
        TypeError: ``model`` is not a module.
    """
    _require_module(model)
    report = SwapReport(fuse_model.unfuse(model))
    for name, module in model.named_modules():
        wanted = THEIRS.get(type(module))
        if wanted is not None:
            module.__class__ = wanted
            report.swapped[name] = f"torch.nn.{wanted.__name__}"
        elif isinstance(module, tuple(THEIRS)):
            report.left[name] = f"{_full_name(type(module))} is a subclass of cnnext's layer and may compute otherwise"
    return report


def _require_module(model: object) -> None:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"argument `model` must be a torch.nn.Module, but got {type(model).__name__}: {model!r:.60}")


def _reason_to_leave(module: torch.nn.Module, wanted: Kind, sample: torch.Tensor | None) -> str | None:
    if "forward" in vars(module):
        return "its forward method was replaced on the object"
    op = next(OPS[kind] for kind in OPS if issubclass(wanted, kind))
    tensor = next(module.parameters(recurse=False), torch.empty(0) if sample is None else sample)
    reasons = []
    for name in backends():
        if name in (*CHOOSERS, TORCH.name):
            continue
        reason = get(name).can_run(op, tensor.device, tensor.dtype)
        if reason is None:
            return None
        reasons.append(f"{name!r} cannot run it, {reason}")
    return "; ".join(reasons)


def _reason_for_class(module: torch.nn.Module) -> str | None:
    """Why a module of none of the classes that are swapped stays; None if nobody would expect it to be swapped."""
    kind = type(module)
    if isinstance(module, torch.jit.ScriptModule):
        known = {theirs.__name__ for theirs in OURS}
        return "it is compiled by TorchScript" if module.original_name in known else None
    if kind.__module__.startswith(QUANTIZED) and kind.__name__.startswith(("Conv", "BatchNorm")):
        return f"{_full_name(kind)} is a quantized layer"
    if not isinstance(module, RELATED) or isinstance(module, (*THEIRS, layers.LPPool2d)):
        return None
    if torch.nn.utils.parametrize.is_parametrized(module):
        return "it is parametrized, so its class is one made by torch.nn.utils.parametrize"
    base = next((known for known in OURS if isinstance(module, known)), None)
    if base is not None:
        return f"{_full_name(kind)} subclasses torch.nn.{base.__name__} and may compute otherwise"
    return f"cnnext does not swap {_full_name(kind)}"


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
