"""Whether the nodes of a chain may all run where the last one stands: nothing may change what they read till then."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.fx

from cnnext.nn.fuse_trace import is_sequence

Node = torch.fx.Node

FRESH = (
    torch.nn.modules.conv._ConvNd,
    torch.nn.modules.batchnorm._NormBase,
    torch.nn.modules.pooling._MaxPoolNd,
    torch.nn.modules.pooling._AvgPoolNd,
    torch.nn.Linear,
)
"""Layers whose result is memory of its own."""

IN_PLACE = {getattr(operator, f"i{name}") for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")}
IN_PLACE |= {operator.iand, operator.ior, operator.ixor, operator.setitem, operator.delitem}


def what_moves(owner: torch.nn.Module, chain: Sequence[Node], reads: Sequence[Any]) -> str | None:
    """Why the chain, which reads ``reads`` from outside, may not run at its last node; None if it may."""
    inside = set(chain)
    node = chain[0].next
    while node is not chain[-1]:
        if node not in inside:
            module = owner.get_submodule(str(node.target)) if node.op == "call_module" else None
            if module is not None and not _writes(node, module):
                taken = [value for value in node.all_input_nodes if any(value is read for read in reads)]
                if taken and changes_its_input(module):
                    return f"{node.target}, which runs before its chain ends, may change its input in place"
            elif _writes(node, module) and not _writes_elsewhere(owner, node, reads):
                return f"{node.name}, which runs before its chain ends, changes a value in place"
        node = node.next
    return None


def changes_its_input(module: torch.nn.Module) -> bool:
    """Whether a call may write into the tensor that it is given; where that cannot be known: yes."""
    if is_sequence(module):
        for child in module.children():
            if changes_its_input(child):
                return True
            if isinstance(child, FRESH):
                return False
        return False
    known = type(module).__module__.startswith(("torch.nn.", "cnnext.nn"))
    return bool(getattr(module, "inplace", False)) or not known


def _writes(node: Node, module: torch.nn.Module | None) -> bool:
    """Whether the node changes a value in place, its first argument most likely."""
    if module is not None:
        return bool(getattr(module, "inplace", False))
    flags = (*node.args[1:], node.kwargs.get("inplace"))  # inplace may be the second argument or a later one
    if any(value is True for value in flags) or node.kwargs.get("out") is not None or node.target in IN_PLACE:
        return True
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and name.endswith("_") and not name.endswith("__")


def _writes_elsewhere(owner: torch.nn.Module, node: Node, reads: Sequence[Any]) -> bool:
    """Whether what the node changes is memory that nothing read here can share."""
    value = node.args[0] if node.args else None
    if not isinstance(value, Node) or any(value is read for read in reads):
        return False
    if value.op == "call_module":
        return isinstance(owner.get_submodule(str(value.target)), FRESH)
    return value.target in (operator.add, operator.mul, torch.add, torch.cat)
