"""The only place that registers Python parts of an op with torch: fakes, autograd formulas, FLOP counts.

An op is described once, by an :class:`OpSpec` in ``cnnext/ops/<op>.py``, and registered for every namespace that
has its schema: ``cnnext`` (C++ on the CPU, CUDA C++ on the GPU), and each further backend's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

NAMESPACES: list[str] = []
"""Namespaces whose ops are registered and can be called as ``getattr(torch.ops, namespace).<op>``."""


@dataclass(frozen=True)
class OpSpec:
    """What an op is to torch, besides its schema (``csrc/library.cpp``) and its kernels.

    Args:
        name: the op's name in the schema.
        fake: takes the op's arguments, returns unwritten tensors of the right shape, dtype and strides.
        save: ``save(ctx, inputs, output)`` keeps what the backward needs; None for ops without a derivative.
        backward: ``backward(ops, ctx, *grads)`` returns a gradient or None per argument. It calls ``ops.<op>``,
            the ops of its own namespace, so that it can be differentiated again.
        flops: floating-point operations from the shapes of the arguments, for ``torch.utils.flop_counter``.
    """

    name: str
    fake: Callable[..., Any]
    save: Callable[[Any, tuple[Any, ...], Any], None] | None = None
    backward: Callable[..., Any] | None = None
    flops: Callable[..., int] | None = None


SPECS: dict[str, OpSpec] = {}


def declare(*specs: OpSpec) -> None:
    """Add ops to the package; they are registered for every namespace there is and will be."""
    for spec in specs:
        SPECS[spec.name] = spec
        for namespace in NAMESPACES:
            _register(spec, namespace)


def register_namespace(namespace: str) -> None:
    """Register every declared op whose schema has been defined for ``namespace``."""
    NAMESPACES.append(namespace)
    for spec in SPECS.values():
        _register(spec, namespace)


def constant_when_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let torch.compile ask ``function`` once, while it traces, and take the answer for a constant.

    That is ``torch.compiler.assume_constant_result``, which imports the compiler: 1.5 s that an import must not take.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def _register(spec: OpSpec, namespace: str) -> None:
    qualified = f"{namespace}::{spec.name}"
    ops = getattr(torch.ops, namespace)
    if not hasattr(ops, spec.name):
        return
    torch.library.register_fake(qualified, spec.fake)
    if spec.backward is not None:
        backward = spec.backward

        def formula(ctx: Any, *grads: Any) -> Any:
            return backward(ops, ctx, *grads)

        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            assert spec.save is not None
            spec.save(ctx, inputs, output)

        torch.library.register_autograd(qualified, formula, setup_context=setup_context)
    if spec.flops is not None:
        register_flop_formula(getattr(ops, spec.name))(spec.flops)
