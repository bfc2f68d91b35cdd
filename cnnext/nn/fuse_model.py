"""Find and fuse the chains of a whole model, module by module, and take that back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
import torch.fx

from cnnext.nn.blocks import Residual, ResNeXtBlock
from cnnext.nn.fuse import PLANS, Found, fused_class, is_fused, keep_plan, look
from cnnext.nn.fuse_trace import is_sequence, unfused_class
from cnnext.nn.resnet_blocks import BasicBlock, Bottleneck, ConvBNReLU

OWN_BLOCKS = (ConvBNReLU, BasicBlock, Bottleneck, Residual, ResNeXtBlock)
"""What runs its chains by the fused ops itself."""


def fuse(model: torch.nn.Module) -> tuple[dict[str, str], dict[str, str]]:
    """Give every module of ``model`` whose own forward has chains that may be fused a class that fuses them.

    Returns:
        For the first layer of each chain, by name, the chain; and for each layer that was left, why.
    """
    own = [(name, module) for name, module in model.named_modules() if _runs_itself_fused(module)]
    owners = {name: module for name, module in model.named_modules() if _is_owner(module)}
    first = {name: look(module) for name, module in owners.items()}
    inlined = {_join(name, inner) for name, found in first.items() for inner in found.inlined}
    shared = _shared(model, {name: found for name, found in first.items() if name not in inlined}, owners)
    fused = {name: f"cnnext.nn.{type(module).__name__}, which runs fused itself" for name, module in own}
    left: dict[str, str] = {}
    seen: set[str] = set()
    of_own = tuple(f"{name}." if name else "" for name, _ in own)
    for name, module in owners.items():
        found = look(module, shared)
        if name not in inlined:
            fused.update({_join(name, str(chain.nodes[0].target)): str(chain) for chain in found.chains})
            left.update({_join(name, inner): reason for inner, reason in found.left.items() if inner})
            if found.traced is None:
                left.update(dict.fromkeys(_convolutions(module, name), found.left[""]))
            seen.update(_join(name, str(link.conv.target)) for chain in found.chains for link in chain.links)
        _install(module, found, shared)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d) and name not in seen and not name.startswith(of_own):
            left.setdefault(name, "no forward that torch.fx could trace calls it")
    return fused, left


def unfuse(model: torch.nn.Module) -> dict[str, str]:
    """Give every module that :func:`fuse` changed its class back; names and classes of those."""
    changed = {}
    for name, module in model.named_modules():
        if is_fused(module):
            vars(module).pop(PLANS, None)
            module.__class__ = kind = unfused_class(module)
            changed[name] = f"{kind.__module__}.{kind.__qualname__}"
    return changed


def _install(module: torch.nn.Module, found: Found, shared: set[int]) -> None:
    """Keep the plans of both modes, for a compiler cannot trace by torch.fx."""
    mode = module.training
    try:
        module.training = not mode
        other = look(module, shared)
        if found.plan is None and other.plan is None:
            return
        if not is_fused(module):
            module.__class__ = fused_class(type(module))
        vars(module).pop(PLANS, None)
        keep_plan(module, other.plan)
    finally:
        module.training = mode
    keep_plan(module, found.plan)


def _is_owner(module: torch.nn.Module) -> bool:
    """Whether the module's forward is worth tracing: it may call convolutions, and is no code of torch's own."""
    if _runs_itself_fused(module) or isinstance(module, torch.jit.ScriptModule) or "forward" in vars(module):
        return False
    if type(module).forward is torch.nn.Module.forward or not module._modules:  # a list of modules has no forward
        return False
    foreign = type(module).__module__.startswith("torch.")
    if foreign and not is_sequence(module) and not isinstance(module, torch.fx.GraphModule):
        return False
    return any(isinstance(child, torch.nn.Conv2d) for child in module.modules())


def _runs_itself_fused(module: torch.nn.Module) -> bool:
    return any(type(module).forward is block.forward for block in OWN_BLOCKS)


def _shared(model: torch.nn.Module, found: dict[str, Found], owners: dict[str, torch.nn.Module]) -> set[int]:
    """Ids of the modules that have several names, or that several forwards call."""
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    calls = Counter(
        identity
        for name, what in found.items()
        if what.traced is not None
        for identity in {
            id(owners[name].get_submodule(str(node.target)))
            for node in what.traced.graph.nodes
            if node.op == "call_module"
        }
    )
    return {identity for counts in (places, calls) for identity, count in counts.items() if count > 1}


def _convolutions(module: torch.nn.Module, name: str) -> Iterator[str]:
    """Names of the convolutions that are the module's own children, or those of its lists and dictionaries."""
    for inner, child in module._modules.items():
        if isinstance(child, torch.nn.Conv2d):
            yield _join(name, inner)
        elif isinstance(child, (torch.nn.ModuleList, torch.nn.ModuleDict)):
            yield from _convolutions(child, _join(name, inner))


def _join(owner: str, name: str) -> str:
    return f"{owner}.{name}" if owner and name else owner or name
