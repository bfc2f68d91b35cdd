"""The weight and bias of a convolution with its norm in them, kept until a parameter or a running statistic changes.

A change is seen by the tensor's identity, address or version. Writing through ``tensor.data`` leaves all three as they
are; on the CPU such a change is seen too, by comparing the norm's vectors and a sample of the weight. What is kept
lies beside the modules, not in them: it is in no ``state_dict`` and goes into no copy or pickle.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch

from cnnext import functional as F

_SAMPLE = 64
"""Values of the weight that are compared."""

Tensors = tuple[Any, Any, Any, Any, Any, Any]


class _Entry(NamedTuple):
    """What was folded, as long as ``tensors`` are the same, with those versions and addresses.

    Attributes:
        views: what is compared of the tensors, as parts of their memory.
        sample: the values of the views at that time.
    """

    tensors: Tensors
    marks: list[int]
    eps: float
    views: list[torch.Tensor]
    sample: torch.Tensor | None
    weight: torch.Tensor
    bias: torch.Tensor


_entries: WeakKeyDictionary[torch.nn.Module, _Entry] = WeakKeyDictionary()


def folded(conv: Any, norm: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Weight and bias of the convolution that gives what ``norm`` in evaluation makes of ``conv``'s output.

    Returns:
        None where a gradient flows to one of the six tensors, or where their values are not to be had: while a compiler
        or a transform of ``torch.func`` traces, or for other than plain tensors.
    """
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return None
    tensors = conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return None
    entry = _entries.get(norm)
    if entry is None or not _is_current(entry, tensors, norm.eps):
        if not all(tensor is None or _is_plain(tensor) for tensor in tensors):
            return None
        entry = _entries[norm] = _fold(tensors, norm.eps)
    return entry.weight, entry.bias


def forget(norm: torch.nn.Module) -> None:
    """Let go of what was kept for ``norm``: in training it would only take up memory."""
    _entries.pop(norm, None)


def _is_plain(tensor: torch.Tensor) -> bool:
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and not tensor.is_inference()


def _is_current(entry: _Entry, tensors: Tensors, eps: float) -> bool:
    for tensor, kept in zip(tensors, entry.tensors, strict=True):
        if tensor is not kept:
            return False
    if entry.eps != eps or entry.marks != _marks(tensors):
        return False
    return entry.sample is None or torch.equal(torch.cat(entry.views), entry.sample)


def _marks(tensors: Tensors) -> list[int]:
    marks: list[int] = []
    for tensor in tensors:
        if tensor is not None:
            marks += tensor._version, tensor.data_ptr()
    return marks


def _fold(tensors: Tensors, eps: float) -> _Entry:
    weight = tensors[0]
    assert weight is not None
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        values = F.fold_batch_norm(*tensors, eps)
        views = _views(tensors)
        sample = torch.cat(views) if views and weight.device.type == "cpu" else None
    return _Entry(tensors, _marks(tensors), eps, views, sample, *values)


def _views(tensors: Tensors) -> list[torch.Tensor]:
    """The vectors, and some of the weight's values: from everywhere if they lie densely, else the first tap's."""
    weight, *vectors = (tensor.detach() for tensor in tensors if tensor is not None)
    if weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last):
        step = max(1, weight.numel() // _SAMPLE)
        return [weight.as_strided((min(_SAMPLE, weight.numel()),), (step,)), *vectors]
    return [weight[:, 0, 0, 0], *vectors]
