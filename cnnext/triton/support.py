"""Whether the Triton kernels can run here, and if not, why; and the one place that loads them."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re

import torch

from cnnext import registration
from cnnext.backends import DTYPES, INTERPRETED

NAMESPACE = "cnnext_triton"
OLDEST = (3, 6)
"""The oldest Triton that is accepted: the one that comes with torch 2.10."""
OLDEST_GPU = (7, 5)
MODULES = (
    "corr2d",
    "conv2d",
    "max_pool2d",
    "avg_pool2d",
    "adaptive_avg_pool2d",
    "batch_norm",
    "conv_bn_relu",
    "conv_bn_relu_norm",
)
"""Modules of this package that define ops when they are imported."""


@functools.cache
def off() -> str | None:
    """Why the backend is off on this machine, whatever the tensors; None if it is on."""
    if os.environ.get("CNNEXT_TRITON") == "0":
        return "switched off by CNNEXT_TRITON=0"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    try:
        import triton
        import triton.language
    except Exception as error:  # a broken installation raises whatever it likes
        return f"triton cannot be imported: {error}"
    if version(triton.__version__) < OLDEST:
        return f"triton {triton.__version__} is too old: {'.'.join(map(str, OLDEST))} or newer is needed"
    if interpreting() != INTERPRETED:
        return "TRITON_INTERPRET was changed after triton had been imported: it must be set before"
    return None


def version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: (3, 6, 0) for "3.6.0+git1234"."""
    leading = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, leading[0].split("."))) if leading else (0,)


@functools.cache
def interpreting() -> bool:
    """Whether triton was imported with ``TRITON_INTERPRET=1``: kernels then run on the CPU, as numpy calls."""
    import triton
    import triton.language as tl

    return not isinstance(tl.sum, triton.JITFunction)


def refuse(op: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return None if ``op`` runs on tensors of that device and dtype, else the reason."""
    reason = off() or _device_refuses(device)
    if reason is not None:
        return reason
    if dtype not in DTYPES:
        return f"it has no kernels for {dtype}"
    load()
    if not hasattr(getattr(torch.ops, NAMESPACE), op):
        return f"it has no kernel for {op}"
    return None


def _device_refuses(device: torch.device) -> str | None:
    if device.type == "cuda" and torch.cuda.is_available() and torch.version.cuda:
        capability = torch.cuda.get_device_capability(device)
        if capability < OLDEST_GPU:
            return f"it needs a GPU of compute capability 7.5 or newer, but got {capability[0]}.{capability[1]}"
    return None


@functools.cache
def load() -> None:
    """Import the kernels, which defines their ops, and register fakes and autograd for them.

    Raises:
        RuntimeError: the backend is off; the text says why.
    """
    if (reason := off()) is not None:
        raise RuntimeError(f"the Triton kernels cannot be loaded: {reason}")
    if interpreting():
        importlib.import_module("cnnext.triton.interpreter").correct()
    for module in MODULES:
        importlib.import_module(f"cnnext.triton.{module}")
    registration.register_namespace(NAMESPACE)
