"""The short way to an op in eager mode: the same kernels and formulas as the dispatcher's way, at less cost.

``torch.library.register_autograd`` runs a generic Python layer on every call, with or without gradients; on tiny
tensors it costs several times what the kernel does. Where nothing but autograd and the kernel is involved, a call
through :class:`EagerOps` goes below autograd, or through a ``torch.autograd.Function`` made from the same
:class:`~cnnext.registration.OpSpec`; that function also serves ``torch.func.grad`` and its kin, which the registered
autograd does not know. Under ``torch.compile`` it is the registered op.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cnnext.registration import SPECS, OpSpec


class EagerOps:
    """The ops of a namespace as attributes, as in ``torch.ops.<namespace>``; each is made at its first use.

    Args:
        namespace: one whose ops are registered.
    """

    def __init__(self, namespace: str):
        self._namespace = namespace

    def __getattr__(self, name: str) -> Callable[..., Any]:
        op: Callable[..., Any] = getattr(getattr(torch.ops, self._namespace), name).default
        if torch.compiler.is_compiling():  # the first use of all: a Function cannot be made while it is traced
            return op
        call = _short_call(SPECS[name], op, self)
        setattr(self, name, call)
        return call


def _short_call(spec: OpSpec, op: Any, ops: EagerOps) -> Callable[..., Any]:
    function, composable = _functions(spec, op, ops) if spec.backward is not None else (None, None)
    below_autograd = torch._C._AutoDispatchBelowAutograd
    tensors = [i for i, argument in enumerate(op._schema.arguments) if "Tensor" in str(argument.type)]
    kernel = op._op  # without a layer of Python
    is_compiling, transforms = torch.compiler.is_compiling, torch._C._functorch.peek_interpreter_stack

    def call(*arguments: Any) -> Any:
        if is_compiling():
            return op(*arguments)
        if composable is not None and transforms() is not None:
            return composable.apply(*arguments)
        if function is not None and torch.is_grad_enabled():
            for i in tensors:
                if (tensor := arguments[i]) is not None and tensor.requires_grad:
                    return function.apply(*arguments)
        with below_autograd():
            return kernel(*arguments)

    return call


def _functions(
    spec: OpSpec, op: Any, ops: EagerOps
) -> tuple[type[torch.autograd.Function], type[torch.autograd.Function]]:
    """The op as two autograd Functions: torch.func needs a setup_context of its own, which costs 13 µs a call."""
    save, derive = spec.save, spec.backward
    assert save is not None
    assert derive is not None
    below_autograd, kernel = torch._C._AutoDispatchBelowAutograd, op._op

    def compute(*arguments: Any) -> Any:
        with below_autograd():
            return kernel(*arguments)

    def compute_and_save(ctx: Any, *arguments: Any) -> Any:
        with below_autograd():  # as compute does: a call of it counts among so few others
            output = kernel(*arguments)
        save(ctx, arguments, output)
        return output

    def backward(ctx: Any, *grads: Any) -> Any:
        return derive(ops, ctx, *grads)

    def function(**members: Callable[..., Any]) -> type[torch.autograd.Function]:
        static = {name: staticmethod(member) for name, member in members.items()}
        return type(f"{spec.name}_function", (torch.autograd.Function,), static)

    return (
        function(forward=compute_and_save, backward=backward),
        function(forward=compute, setup_context=save, backward=backward),
    )
