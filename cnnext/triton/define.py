"""Ops of the namespace: a schema, and the function that launches its kernels."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from cnnext.triton.support import NAMESPACE, interpreting


def define(schema: str, function: Callable[..., Any]) -> None:
    """Define an op, whose fake and autograd formula :mod:`cnnext.registration` adds.

    As a ``triton_op`` it is transparent to ``torch.compile``, which sees the kernels that ``function`` launches. The
    interpreter's kernels cannot be seen through: there it is an ordinary op.

    Args:
        schema: ``name(arguments) -> results``, a line of ``csrc/library.cpp``.
        function: takes the arguments in order; does nothing but torch ops and launches.
    """
    name, signature = schema.split("(", 1)
    mutated = re.findall(r"Tensor\(\w!\) (\w+)", signature)
    make: Any = torch.library.custom_op if interpreting() else torch.library.triton_op
    make(f"{NAMESPACE}::{name}", function, mutates_args=mutated, schema=f"({signature}")
