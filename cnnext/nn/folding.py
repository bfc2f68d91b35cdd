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


class _Entry(NamedTuple):
    tensors: tuple[torch.Tensor | None, ...]
    marks: tuple[Any, ...]
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
    statistics = norm.running_mean, norm.running_var
    tensors = conv.weight, conv.bias, norm.weight, norm.bias, *statistics
    if torch.compiler.is_compiling() or not _may_be_kept(tensors):
        return None
    entry = _entries.get(norm)
    marks = (norm.eps, *(None if t is None else (t._version, t.data_ptr(), t.dtype) for t in tensors))
    sample = _sample(tensors) if conv.weight.device.type == "cpu" else None
    if entry is None or not _is_current(entry, tensors, marks, sample):
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(conv.weight.device.type, enabled=False):
            values = F.fold_batch_norm(*tensors, norm.eps)
        entry = _entries[norm] = _Entry(tensors, marks, sample, *values)
    return entry.weight, entry.bias


def forget(norm: torch.nn.Module) -> None:
    """Let go of what was kept for ``norm``: in training it would only take up memory."""
    _entries.pop(norm, None)


def _may_be_kept(tensors: tuple[torch.Tensor | None, ...]) -> bool:
    plain = (torch.Tensor, torch.nn.Parameter)
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    wants_gradient = torch.is_grad_enabled()
    return all(
        t is None or (type(t) in plain and not t.is_inference() and not (wants_gradient and t.requires_grad))
        for t in tensors
    )


def _is_current(entry: _Entry, tensors: tuple[Any, ...], marks: tuple[Any, ...], sample: torch.Tensor | None) -> bool:
    same = all(a is b for a, b in zip(entry.tensors, tensors, strict=True)) and entry.marks == marks
    if not same or sample is None or entry.sample is None:
        return same and sample is entry.sample
    return torch.equal(entry.sample, sample)


def _sample(tensors: tuple[torch.Tensor | None, ...]) -> torch.Tensor:
    weight, *vectors = (t.detach() for t in tensors if t is not None)
    if weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last):
        step = max(1, weight.numel() // _SAMPLE)
        weight = weight.as_strided((min(_SAMPLE, weight.numel()),), (step,))
    return torch.cat([weight.flatten(), *vectors])
