"""A module whose chains of convolution, norm, sum and ReLU run as single calls.

Its class is its own with another forward, made from the trace of its own: parameters, buffers, children, hooks on the
module and its mode stay what they are. A trace belongs to a mode and to the values that the forward may branch on; with
others, the module is traced again. At each call a chain runs as one if its layers still may be fused, else one by one.
"""

from __future__ import annotations

import copyreg
import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
import torch.fx

from cnnext.nn.conv_bn import has_hooks, may_fuse, run
from cnnext.nn.fuse_chains import ADDS, Chain, Finder
from cnnext.nn.fuse_trace import UNFUSED, Trace, Untraceable, is_sequence, trace, unfused_class

PLANS = "_fused_plans"
"""Attribute of a fused module: its plans, made anew where they are missing, and in no copy or pickle."""

MOST_PLANS = 16
"""A module with more states than this has values that change all the time, and is not traced for each."""


PLAIN = frozenset((type(None), bool, int, float, str))


class Plan(NamedTuple):
    """How a module runs: ``forward(module, *inputs)``, for inputs of these names and containers of these lengths."""

    forward: Callable[..., Any]
    names: tuple[str, ...]
    inlined: tuple[tuple[str, int], ...]


class Found(NamedTuple):
    """What was found in a module's forward.

    Attributes:
        plan: None where there are no chains.
        traced: None where torch.fx could not trace it.
        chains: in the order in which they run.
        left: name of each layer that is in no chain, or at which one ends, and why; "" for the forward itself.
    """

    plan: Plan | None
    traced: Trace | None
    chains: list[Chain]
    left: dict[str, str]

    @property
    def inlined(self) -> tuple[str, ...]:
        """Names of the containers whose children the forward calls in their place."""
        return () if self.traced is None else self.traced.inlined


def is_fused(module: torch.nn.Module) -> bool:
    """Whether the module's class is one of :func:`fused_class`."""
    return hasattr(type(module), UNFUSED)


_classes: WeakValueDictionary[type, type] = WeakValueDictionary()


def fused_class(original: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """The class of ``original`` modules whose chains are fused: a subclass with another forward."""
    kind = _classes.get(original)
    if kind is None:
        members = {UNFUSED: original, "forward": _forward, "__reduce_ex__": _reduce}
        members |= {name: getattr(original, name) for name in ("__module__", "__qualname__", "__doc__")}
        kind = _classes[original] = type(original.__name__, (original,), members)
    return kind


def _forward(self: Any, *inputs: Any, **options: Any) -> Any:
    """What the forward of the class before computes."""
    plan = _plan_of(self)
    values = None if plan is None else _bind(plan, inputs, options)
    if plan is None or values is None or not _is_as_traced(self, plan):
        return unfused_class(self).forward(self, *inputs, **options)
    return plan.forward(self, *values)


def _reduce(self: Any, protocol: Any) -> Any:
    """What makes a copy or a pickle: the class is made again there, and the plans are found again."""
    plans = vars(self).pop(PLANS, None)
    try:
        reduced: Any = unfused_class(self).__reduce_ex__(self, max(2, int(protocol)))
        make, arguments, *rest = reduced
        if make is copyreg.__newobj__:  # type: ignore[attr-defined]
            make, arguments = _make, (unfused_class(self),)
        return make, arguments, *(dict(part) if part is vars(self) else part for part in rest)
    finally:
        if plans is not None:
            vars(self)[PLANS] = plans


def _make(original: type[torch.nn.Module]) -> torch.nn.Module:
    kind = fused_class(original)
    return kind.__new__(kind)


def run_chain(
    input: Any,
    links: Sequence[tuple[Any, Any]],
    relus: Sequence[Any],
    residual: Any = None,
    add: str | None = None,
) -> Any:
    """Run modules that were traced as a chain.

    Args:
        input: shape (N, C, H, W).
        links: (convolution, norm or None).
        relus: of each link: a module, True for a function, or None.
        residual: the other operand of the sum before the last ReLU, where there is one.
        add: its function in :mod:`operator`.
    """
    plus = getattr(operator, add or "add")
    modules = [module for link in links for module in link] + [relu for relu in relus if relu is not True]
    if may_fuse(input, *modules):
        return run(input, links, residual, relus[-1] is not None, plus)
    for i, ((conv, norm), relu) in enumerate(zip(links, relus, strict=True)):
        input = conv(input) if norm is None else norm(conv(input))
        if add is not None and i == len(links) - 1:
            input = plus(input, residual)
        if relu is not None:
            input = torch.relu(input) if relu is True else relu(input)
    return input


def _plan_of(module: Any) -> Plan | None:
    plans = vars(module).get(PLANS, {})
    if torch.compiler.is_compiling():
        compiled: Plan | None = plans.get(module.training)
        return compiled
    vars(module)[PLANS] = plans
    state = _state(module)
    if state not in plans:
        keep_plan(module, None if len(plans) > MOST_PLANS else look(module).plan)
    found: Plan | None = plans[state]
    return found


def keep_plan(module: Any, plan: Plan | None) -> None:
    """Let the module run by ``plan`` in its mode and state; for a compiler, in its mode."""
    plans = vars(module).setdefault(PLANS, {})
    plans[_state(module)] = plans[module.training] = plan


def _state(module: torch.nn.Module) -> tuple[Any, ...]:
    """The mode and the other plain values of a module, and which children it has."""
    values: list[Any] = []
    for value in vars(module).values():
        kind = type(value)
        if kind in PLAIN:
            values.append(value)
        elif (kind is tuple or kind is list) and all(type(item) in PLAIN for item in value):
            values.append(tuple(value))
    for child in module._modules.values():
        values.append(type(child))
        if isinstance(child, (torch.nn.ModuleList, torch.nn.ModuleDict)):
            values.append(len(child))
    return tuple(values)


def _bind(plan: Plan, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, ...] | None:
    """The inputs in the order of the plan's names; None for other inputs than those tensors."""
    if options:
        rest = plan.names[len(inputs) :]
        if options.keys() != set(rest):
            return None
        inputs = (*inputs, *(options[name] for name in rest))
    fits = len(inputs) == len(plan.names) and all(isinstance(value, torch.Tensor) for value in inputs)
    return inputs if fits else None


def _is_as_traced(module: Any, plan: Plan) -> bool:
    """Whether the containers whose calls are left out are still such that nobody notices."""
    for name, length in plan.inlined:
        container = module.get_submodule(name)
        if not is_sequence(container) or len(container) != length or has_hooks(container):
            return False
    return not (plan.inlined and torch.nn.modules.module._has_any_global_hook())


def look(module: Any, shared: Collection[int] = ()) -> Found:
    """Find the chains in a module's own forward, that of its mode.

    Args:
        module: one with children.
        shared: ids of layers that stand at several places of the model.
    """
    kind = type(module)
    module.__class__ = original = unfused_class(module)
    try:
        traced = trace(module, original.forward)
    except Untraceable as reason:
        return Found(None, None, [], {"": str(reason)})
    finally:
        module.__class__ = kind
    finder = Finder(module, shared)
    chains = finder.find(traced.graph)
    return Found(_make_plan(module, traced, chains) if chains else None, traced, chains, finder.left)


def _make_plan(module: Any, traced: Trace, chains: Sequence[Chain]) -> Plan:
    graph = torch.fx.Graph()
    copies: dict[torch.fx.Node, torch.fx.Node] = {}
    graph.output(graph.graph_copy(traced.graph, copies))
    for chain in chains:
        _replace(graph, chain, copies)
    forward = type(torch.fx.GraphModule(module, graph)).forward
    inlined = tuple((name, len(module.get_submodule(name))) for name in traced.inlined)
    return Plan(forward, traced.names, inlined)


def _replace(graph: torch.fx.Graph, chain: Chain, copies: dict[torch.fx.Node, torch.fx.Node]) -> None:
    """Put one call in the place of the copies of the chain's nodes."""
    nodes = [copies[node] for node in chain.nodes]

    def module(node: torch.fx.Node | None) -> Any:
        if node is None or node.op != "call_module":
            return None if node is None else True
        return graph.create_node("get_attr", str(node.target))

    with graph.inserting_after(nodes[-1]):
        call = graph.call_function(run_chain)
    nodes[-1].replace_all_uses_with(call)
    with graph.inserting_before(call):
        links = tuple((module(link.conv), module(link.norm)) for link in chain.links)
        relus = tuple(module(link.relu) for link in chain.links)
    call.args = (nodes[0].args[0], links, relus)
    if chain.add is not None:
        operands = copies[chain.add].args  # by now the other one may be the call of a chain
        residual = next(value for value in operands if value not in nodes)
        call.kwargs = {"residual": residual, "add": ADDS[chain.add.target]}
    for node in reversed(nodes):
        graph.erase_node(node)
