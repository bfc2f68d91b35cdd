"""What one module's forward computes, as a graph in which its children are called whole, or why there is none.

torch.fx runs the forward once, with stand-ins for its inputs, and what Python decides then is decided for good. A trace
is therefore refused where it would compute something else than the forward on another day: where that asks for the type
of a value, calculates with other tensors, draws random numbers, changes itself, or switches gradients or autocast.
"""

from __future__ import annotations

import inspect
import operator
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.fx
from torch.overrides import TorchFunctionMode

from cnnext.nn.conv_bn import has_hooks

UNFUSED = "_unfused_class"
"""Attribute of the class of a module whose chains are fused."""


class Untraceable(Exception):
    """Why torch.fx cannot trace a forward so that the graph computes the same."""


class Trace(NamedTuple):
    """A forward as a graph.

    Attributes:
        graph: its nodes; those of kind ``call_module`` name children.
        names: of the inputs.
        inlined: names of the containers whose children are called in their place.
    """

    graph: torch.fx.Graph
    names: tuple[str, ...]
    inlined: tuple[str, ...]


def trace(owner: torch.nn.Module, forward: Any) -> Trace:
    """Trace ``forward``, that of ``owner``'s class, in the mode that the module is in.

    Raises:
        Untraceable: the text says why.
    """
    names = _input_names(forward)
    tracer = _Tracer(forward, names)
    with _unchanged(owner), _OnlyStandIns():
        try:
            graph = tracer.trace(owner)
        except Untraceable:
            raise
        except Exception as error:  # whatever a forward raises when its inputs are stand-ins
            text = str(error).strip() or type(error).__name__
            raise Untraceable(f"torch.fx cannot trace it: {text.splitlines()[0]:.120}") from error
    return Trace(graph, names, tuple(tracer.inlined))


def is_sequence(module: torch.nn.Module) -> bool:
    """Whether a call of ``module`` calls its children in turn, and does nothing else."""
    return isinstance(module, torch.nn.Sequential) and unfused_class(module).forward is torch.nn.Sequential.forward


def unfused_class(module: torch.nn.Module) -> Any:
    """The class of the module; of one whose chains are fused, that which it had before."""
    kind = type(module)
    return getattr(kind, UNFUSED, kind)


def _input_names(forward: Any) -> tuple[str, ...]:
    names = []
    for parameter in list(inspect.signature(forward).parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise Untraceable("its forward takes any number of arguments")
        if parameter.default is not parameter.empty:
            continue
        if parameter.kind is parameter.KEYWORD_ONLY:
            raise Untraceable(f"its forward needs `{parameter.name}` by keyword")
        names.append(parameter.name)
    return tuple(names)


class _Value(torch.fx.Proxy):
    """A stand-in, of a tensor if it is for an input: a trace serves no other inputs. What it is else is not known."""

    @property
    def __class__(self) -> Any:
        asks = sys._getframe(1).f_globals.get("__name__", "")
        if asks.split(".")[0] in ("torch", "inspect", __name__.split(".")[0]):
            return _Value
        if self.node.op == "placeholder":
            return torch.Tensor
        raise Untraceable("its forward asks for the type of a value")

    @__class__.setter
    def __class__(self, kind: Any) -> None:
        raise TypeError("a stand-in keeps its class")


def _in_place(name: str) -> Any:
    target = getattr(operator, name)

    def apply(self: Any, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    return apply


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"):
    # torch.fx's own stand-in takes `x += y` for `x = x + y`, which leaves what else is called x as it was
    setattr(_Value, f"__{_name}__", _in_place(_name))


READS = ("__get__", "size", "stride", "dim", "numel", "is_contiguous", "is_floating_point", "__len__")
"""What may be asked of a tensor that is no stand-in: nothing that depends on its values, or makes another."""

SWITCHES = ("_set_grad_enabled", "_enter_autocast", "_exit_autocast", "_enter_inference_mode")


class _OnlyStandIns(TorchFunctionMode):
    """Refuses to calculate with tensors while a forward is traced, for the trace would know the result alone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name.startswith(SWITCHES):
            raise Untraceable("its forward switches gradients or autocast")
        if name not in READS and not _holds_stand_in((args, kwargs)):
            raise Untraceable("its forward calculates with tensors that are not its inputs")
        return func(*args, **(kwargs or {}))


def _holds_stand_in(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_stand_in, value.values()))
    return any(map(_holds_stand_in, value)) if isinstance(value, (tuple, list)) else isinstance(value, torch.fx.Proxy)


class _Tracer(torch.fx.Tracer):
    def __init__(self, forward: Any, names: tuple[str, ...]):
        super().__init__()
        self._forward, self._names, self._modes = forward, names, _modes()
        self.inlined: dict[str, None] = {}

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """The module and a stand-in for each input; the others have their defaults."""
        return self._forward, [self.root, *(self.create_proxy("placeholder", name, (), {}) for name in self._names)]

    def proxy(self, node: torch.fx.Node) -> torch.fx.Proxy:
        return _Value(node, self)

    def create_node(self, *arguments: Any, **options: Any) -> torch.fx.Node:
        if _modes() != self._modes:
            raise Untraceable("its forward switches gradients or autocast")
        return super().create_node(*arguments, **options)

    def call_module(self, m: torch.nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        name = self.path_of_module(m)
        if not is_sequence(m) or has_hooks(m) or kwargs or len(args) != 1 or "forward" in vars(m):
            return self.create_proxy("call_module", name, args, kwargs)
        self.inlined[name] = None
        value = args[0]
        for child in m.children():
            value = child(value)
        return value


def _modes() -> tuple[bool, ...]:
    autocast = (torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *autocast


@contextmanager
def _unchanged(owner: torch.nn.Module) -> Iterator[None]:
    """Refuse a forward that assigns to a module or draws random numbers, and undo that."""
    modules = list(owner.modules())
    kept = [{id(table): dict(table) for table in _tables(module)} for module in modules]
    torchs, pythons = torch.get_rng_state(), random.getstate()
    try:
        yield
    finally:
        changed = [_restore(module, tables) for module, tables in zip(modules, kept, strict=True)]
        drawn = not torch.equal(torch.get_rng_state(), torchs) or random.getstate() != pythons
        if drawn:
            torch.set_rng_state(torchs)
            random.setstate(pythons)
    if any(changed):
        raise Untraceable("its forward keeps values in a module")
    if drawn:
        raise Untraceable("its forward draws random numbers")


def _tables(module: torch.nn.Module) -> list[dict[str, Any]]:
    return [vars(module), module._parameters, module._buffers, module._modules]


def _restore(module: torch.nn.Module, kept: dict[int, dict[str, Any]]) -> bool:
    """Give every attribute its value back; whether one had another."""
    changed = False
    for table in _tables(module):
        before = kept.get(id(table), {})
        if table.keys() != before.keys() or any(table[name] is not before[name] for name in before):
            changed = True
            table.clear()
            table.update(before)
    return changed
