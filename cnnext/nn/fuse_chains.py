"""Chains of convolution, norm, sum and ReLU in a traced forward, and why what looks like one is none."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx

from cnnext.nn import layers
from cnnext.nn.conv_bn import why_alone
from cnnext.nn.fuse_order import what_moves

Node = torch.fx.Node

NORMS = (torch.nn.BatchNorm2d, torch.nn.SyncBatchNorm)
LAZY = (layers.LazyConv2d, layers.LazyBatchNorm2d)
RELUS = (torch.relu, torch.relu_, torch.nn.functional.relu, torch.nn.functional.relu_, "relu", "relu_")
ADDS: dict[Any, str] = {
    operator.add: "add",
    torch.add: "add",
    "add": "add",
    operator.iadd: "iadd",
    "add_": "iadd",
}
"""Ways to write a sum, and the function in :mod:`operator` for each."""


@dataclass
class Link:
    """A convolution's node, and those of the norm and the ReLU behind it."""

    conv: Node
    norm: Node | None = None
    relu: Node | None = None


@dataclass
class Chain:
    """Links each of which is the next one's only use, and a sum before the last ReLU."""

    links: list[Link]
    add: Node | None = None
    residual: Any = None

    @property
    def nodes(self) -> list[Node]:
        """All nodes, in the order in which they run."""
        found = [node for link in self.links for node in (link.conv, link.norm, link.relu) if node is not None]
        if self.add is None:
            return found
        return [*found[:-1], self.add, found[-1]] if self.links[-1].relu is not None else [*found, self.add]

    def __str__(self) -> str:
        return " → ".join(_title(node) for node in self.nodes)


@dataclass
class Finder:
    """Finds the chains of one graph.

    Args:
        owner: the module whose forward was traced.
        shared: ids of the modules that are called at several places.
    """

    owner: torch.nn.Module
    shared: Collection[int] = ()
    left: dict[str, str] = field(default_factory=dict)
    """Name of each layer that is in no chain, or at which one ends, and why."""

    def find(self, graph: torch.fx.Graph) -> list[Chain]:
        """The chains of two nodes or more that may run as one call, in order; fills ``left``."""
        nodes = [node for node in graph.nodes if node.op == "call_module"]
        calls = Counter(node.target for node in nodes)
        self._often = {target for target, count in calls.items() if count > 1}
        chains: list[Chain] = []
        begun: set[Node] = set()
        for node in nodes:
            if self._is(node, torch.nn.Conv2d) and node not in begun and self._fits(node):
                chains.append(self._grow(node))
                begun.update(link.conv for link in chains[-1].links)
        self._share_out_sums(chains)
        return [chain for chain in chains if self._is_safe(chain)]

    def _grow(self, conv: Node) -> Chain:
        links = [Link(conv)]
        while True:
            link = links[-1]
            end = link.conv
            following = self._next(end)
            if following is not None and self._is(following, NORMS) and self._joins(link, following):
                end = link.norm = following
                following = self._next(end)
            if following is None or not self._is_relu(following):
                return Chain(links)
            link.relu = following
            following = self._next(following)
            if following is None or not self._is(following, torch.nn.Conv2d) or not self._fits(following):
                return Chain(links)
            links.append(Link(following))

    def _share_out_sums(self, chains: list[Chain]) -> None:
        """Give each sum of two chains' ends to the longer one, and the ReLU behind it."""
        ends = {chain.nodes[-1]: chain for chain in chains if chain.links[-1].relu is None}
        for add in dict.fromkeys(following for end in ends if (following := self._next(end)) is not None):
            if add.target not in ADDS or add.op == "call_module" or add.kwargs or len(add.args) != 2:
                continue
            operands = add.args if ADDS[add.target] == "add" else add.args[:1]
            takers = [ends[node] for node in operands if isinstance(node, Node) and node in ends]
            if not takers or add.args[0] is add.args[1] or not all(isinstance(value, Node) for value in add.args):
                continue
            chain = max(takers, key=lambda taker: len(taker.links))
            chain.residual = next(value for value in add.args if value is not chain.nodes[-1])
            chain.add = add
            if (following := self._next(add)) is not None and self._is_relu(following):
                chain.links[-1].relu = following

    def _is_safe(self, chain: Chain) -> bool:
        first = chain.links[0].conv
        if len(chain.nodes) < 2:
            self.left.setdefault(str(first.target), f"{_uses(first)}, so there is nothing to fuse it with")
            return False
        reason = what_moves(self.owner, chain.nodes, (first.args[0], chain.residual))
        if reason is not None:
            self.left[str(first.target)] = reason
        return reason is None

    def _next(self, node: Node) -> Node | None:
        """The node that alone takes this one's value, as its first argument or that of a sum."""
        if len(node.users) != 1:
            return None
        (user,) = node.users
        takes = user.args[:1] if user.target not in ADDS else user.args
        return user if user.op != "output" and any(value is node for value in takes) else None

    def _module(self, node: Node) -> Any:
        return self.owner.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _is(self, node: Node, kind: Any) -> bool:
        """Whether the node is a call of a layer of that kind with one argument."""
        return isinstance(self._module(node), kind) and len(node.args) == 1 and not node.kwargs

    def _is_relu(self, node: Node) -> bool:
        if self._is(node, torch.nn.ReLU):
            return self._fits(node)
        return node.op in ("call_function", "call_method") and node.target in RELUS and len(node.args) == 1

    def _joins(self, link: Link, norm: Node) -> bool:
        if not self._fits(norm):
            return False
        conv_trains, norm_trains = (self._module(node).training for node in (link.conv, norm))
        if conv_trains != norm_trains:
            modes = ["training" if trains else "evaluation" for trains in (norm_trains, conv_trains)]
            self.left[str(norm.target)] = f"it is in {modes[0]} mode and its convolution in {modes[1]} mode"
        return conv_trains == norm_trains

    def _fits(self, node: Node) -> bool:
        """Whether the layer may be part of a chain; else its reason goes to ``left``."""
        module, name = self._module(node), str(node.target)
        reason = None if type(module) in LAZY else why_alone(module)
        if reason is None and not isinstance(module, torch.nn.ReLU):
            if node.target in self._often:
                reason = "its forward calls it more than once"
            elif id(module) in self.shared:
                reason = "it stands at several places of the model"
        if reason is not None:
            self.left[name] = reason
        return reason is None


def _title(node: Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    name = node.target if isinstance(node.target, str) else node.target.__name__
    return "add" if node.target in ADDS else name.rstrip("_")


def _uses(node: Node) -> str:
    users = list(node.users)
    if len(users) != 1:
        return f"its result is used {len(users)} times"
    return "its result is what the forward returns" if users[0].op == "output" else f"{_title(users[0])} follows"
