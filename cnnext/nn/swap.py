"""Put cnnext's layers into any model, in place, and take them out again.

A layer is swapped by changing its class: ours are torch's with another forward pass, so the object, its parameters,
buffers, hooks, training flag and place in every container stay what they are, and so do the references that an
optimizer or a tied layer holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from cnnext.nn import layers

OURS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.Conv2d: layers.Conv2d,
    torch.nn.LazyConv2d: layers.LazyConv2d,
    torch.nn.MaxPool2d: layers.MaxPool2d,
    torch.nn.AvgPool2d: layers.AvgPool2d,
    torch.nn.AdaptiveAvgPool2d: layers.AdaptiveAvgPool2d,
    torch.nn.BatchNorm2d: layers.BatchNorm2d,
    torch.nn.LazyBatchNorm2d: layers.LazyBatchNorm2d,
}
THEIRS = {ours: theirs for theirs, ours in OURS.items()}
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
RELATED = (
    torch.nn.modules.conv._ConvNd,
    torch.nn.modules.pooling._MaxPoolNd,
    torch.nn.modules.pooling._AvgPoolNd,
    torch.nn.modules.pooling._AdaptiveAvgPoolNd,
    torch.nn.modules.pooling._AdaptiveMaxPoolNd,
    torch.nn.modules.batchnorm._NormBase,
)


@dataclass
class SwapReport:
    """What :func:`swap` or :func:`unswap` did.

    Attributes:
        swapped: name of each layer whose class was changed, and the class it has now.
        left: name of each convolution, pool or norm that stayed as it was, and why.
    """

    swapped: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"swapped {len(self.swapped)} layers, left {len(self.left)}"]
        lines += [f"  {name or '(the model itself)'}: {kind}" for name, kind in self.swapped.items()]
        lines += [f"  {name or '(the model itself)'}: left, {reason}" for name, reason in self.left.items()]
        return "\n".join(lines)


def swap(model: torch.nn.Module) -> SwapReport:
    """Replace torch's layers in ``model`` by cnnext's, in place; ``model`` may itself be a layer.

    Args:
        model: any module. Only layers of exactly torch's class are touched: a subclass may have changed the forward
            pass, and is listed with that reason.

    Returns:
        A :class:`SwapReport`, which prints as a list.

    Raises:
        TypeError: ``model`` is not a module.
    """
    return _change_classes(model, OURS, set(THEIRS))


def unswap(model: torch.nn.Module) -> SwapReport:
    """Give every layer of ``model`` that is one of cnnext's its torch class back; the inverse of :func:`swap`.

    Raises:
        TypeError: ``model`` is not a module.
    """
    return _change_classes(model, THEIRS, set(OURS))


def _change_classes(
    model: torch.nn.Module,
    classes: dict[type[torch.nn.Module], type[torch.nn.Module]],
    already: set[type[torch.nn.Module]],
) -> SwapReport:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"argument `model` must be a torch.nn.Module, but got {type(model).__name__}: {model!r:.60}")
    report = SwapReport()
    for name, module in model.named_modules():
        wanted = classes.get(type(module))
        if wanted is not None:
            reason = _reason_to_leave(module) if classes is OURS else None
            if reason is None:
                module.__class__ = wanted
                report.swapped[name] = f"{'cnnext' if classes is OURS else 'torch'}.nn.{wanted.__name__}"
            else:
                report.left[name] = reason
        elif isinstance(module, RELATED) and type(module) not in already:
            report.left[name] = _reason_for_class(module)
    return report


def _reason_to_leave(module: torch.nn.Module) -> str | None:
    if "forward" in vars(module):
        return "its forward method was replaced on the object"
    for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        lazy = isinstance(tensor, (torch.nn.UninitializedParameter, torch.nn.UninitializedBuffer))
        if not lazy and tensor.is_floating_point() and tensor.dtype not in DTYPES:
            return f"its {name} is of {tensor.dtype}, for which there are no kernels"
        if not lazy and (tensor.is_complex() or tensor.is_quantized or tensor.is_sparse):
            return f"its {name} is complex, quantized or sparse"
    return None


def _reason_for_class(module: torch.nn.Module) -> str:
    kind = type(module)
    if torch.nn.utils.parametrize.is_parametrized(module):
        return "it is parametrized, so its class is one made by torch.nn.utils.parametrize"
    base = next((known for known in OURS if isinstance(module, known)), None)
    if base is not None:
        return f"{kind.__module__}.{kind.__qualname__} subclasses torch.nn.{base.__name__} and may compute otherwise"
    return f"cnnext has no layer for {kind.__module__}.{kind.__qualname__}"
