"""A pass of a layer as something to run, and its parity with torch: what is timed is what was checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from cnnext.testing import Parity, measure_parity
from cnnext.testing.layers import OURS, TORCH, LayerCase, Tensors

PASSES = ("forward", "backward_input", "backward_weight", "step")
Results = tuple[torch.Tensor, ...]


def passes_of(case: LayerCase) -> tuple[str, ...]:
    """The passes that a layer has: one without weights has no gradient for them."""
    return PASSES if case.weight else ("forward", "backward_input", "step")


def grad_for(case: LayerCase, output: torch.Tensor, seed: int = 7) -> torch.Tensor:
    """A standard-normal gradient of the output, in its layout."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(case.output, generator=generator, dtype=torch.float64)
    return torch.empty_like(output).copy_(values)


def prepare(
    case: LayerCase, which: str, functions: Any, tensors: Tensors, grad: torch.Tensor | None = None
) -> Callable[[], Results]:
    """A function that runs a pass once and returns its results.

    Args:
        case: the layer.
        which: one of :data:`PASSES`. ``forward`` runs without gradients, a norm's in evaluation mode; the backward
            passes run over a graph made here, once; ``step`` is forward and backward, with all gradients.
        functions: ``OURS``, ``TORCH`` or something that has the op as an attribute.
        tensors: of :meth:`LayerCase.tensors`.
        grad: of the output; made here unless given.
    """
    if which == "forward":

        def forward() -> Results:
            with torch.no_grad():
                return (case.call(functions, tensors),)

        return forward
    leaves, wanted = _leaves(case, which, tensors)
    if which == "step":
        with torch.no_grad():
            to_output = (
                grad_for(case, case.call(functions, [_copy(x) for x in tensors], True)) if grad is None else grad
            )

        def step() -> Results:
            with torch.enable_grad():
                output = case.call(functions, leaves, True)
                return (output.detach(), *torch.autograd.grad(output, wanted, to_output))

        return step
    with torch.enable_grad():
        output = case.call(functions, leaves, True)
    to_output = grad_for(case, output) if grad is None else grad
    return lambda: torch.autograd.grad(output, wanted, to_output, retain_graph=True)


def _leaves(case: LayerCase, which: str, tensors: Tensors) -> tuple[Tensors, Tensors]:
    """Copies of the tensors that need a gradient where this pass asks for it, and the list of those."""
    leaves, wanted = [], []
    for i, tensor in enumerate(tensors):
        leaf = tensor if tensor is None else tensor.detach()
        if leaf is not None and i in case.buffers:
            leaf = leaf.clone()  # training changes it
        elif leaf is not None and which != ("backward_input" if i in case.weights else "backward_weight"):
            leaf.requires_grad_()
            wanted.append(leaf)
        leaves.append(leaf)
    return leaves, wanted


def _copy(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.detach().clone()


def is_winograd_case(case: LayerCase, tensors: Tensors) -> bool:
    """Whether the kernels may take Winograd's algorithm, which is held to a rule of its own."""
    if case.op != "conv2d" or tensors[0].device.type != "cuda" or tensors[0].dtype != torch.float32:
        return False
    from cnnext.ops.precision import float32_shortcuts

    return (
        float32_shortcuts(tensors[0])[1] and case.weight[2:] == (3, 3) and dict(case.arguments)["stride"] in (1, (1, 1))
    )


def check(case: LayerCase, which: str, ours: Sequence[Results], inputs: Sequence[Tensors]) -> list[list[Parity]]:
    """Measure results of a pass against torch's in float64, beside torch's own at the same dtype and layout.

    Args:
        case, which: the layer and the pass.
        ours: the results, once or several times.
        inputs: for each of ``ours``, what it was computed from; the values are the same in all.
    """
    like = torch.empty(case.output, dtype=ours[0][0].dtype, device=ours[0][0].device)
    grad = None if which == "forward" else grad_for(case, like)

    def of_reference(grad: Any, *values: Any) -> Results:
        return prepare(case, which, TORCH, list(values), grad)() * len(ours)

    def of_torch(*_: Any) -> Results:
        peers = [prepare(case, which, TORCH, tensors) for tensors in inputs]
        return tuple(result for peer in peers for result in peer())

    flat = tuple(result for results in ours for result in results)
    parities = measure_parity(flat, of_reference, of_torch, grad, *inputs[0])
    each = len(ours[0])
    return [parities[i : i + each] for i in range(0, len(parities), each)]


__all__ = ["OURS", "PASSES", "TORCH", "check", "grad_for", "is_winograd_case", "passes_of", "prepare"]
