"""Our layers beside torch's, one by one: how exact and how fast. The report of ``cnnext compare``."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from cnnext.info import table
from cnnext.testing import Parity, measure_parity

Seconds = tuple[float, float]  # forward, backward
Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Row:
    """One layer, or the whole model.

    Attributes:
        name: of the layer in the model, and its class.
        shape: of its input and its output, in words.
        parity: of the output, then of each gradient; empty for the whole model.
        ours: medians.
        torch: medians, of the faster of torch's layouts.
        layout: which one that is.
    """

    name: str
    shape: str
    parity: list[Parity]
    ours: Seconds
    torch: Seconds
    layout: str

    @property
    def holds(self) -> bool:
        """Whether the parity rule is kept by the output and every gradient."""
        return all(parity.holds for parity in self.parity)


def compare(
    ours: torch.nn.Module,
    theirs: torch.nn.Module,
    images: torch.Tensor,
    seconds: float = 1.0,
    on_row: Callable[[], Any] | None = None,
) -> list[Row]:
    """Measure every layer of ``ours`` that is one of cnnext's, on what reaches it when the model sees images.

    Args:
        ours: the model made of cnnext.nn's layers.
        theirs: the same model made of torch.nn's; it gets the weights of ``ours``.
        images: (N, C, H, W), where the models lie.
        seconds: about how long to repeat a layer; at least 15 repetitions.
        on_row: called after each layer.

    Returns:
        One row for each layer, and one for the model as a whole, in training mode.
    """
    theirs.load_state_dict(ours.state_dict())
    twins = dict(theirs.named_modules())
    rows = []
    for name, layer, input in _layer_inputs(ours, images):
        rows.append(_measure(f"{name} {type(layer).__name__}", layer, twins[name], input, seconds, True))
        if on_row is not None:
            on_row()
    rows.append(_measure("whole model", ours, theirs, images, seconds, False))
    if on_row is not None:
        on_row()
    return rows


def our_layers(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """The layers of ``model`` that are cnnext's own and not made of others, with their names."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if type(module).__module__.startswith("cnnext.nn") and not list(module.children())
    ]


def _layer_inputs(model: torch.nn.Module, images: torch.Tensor) -> list[tuple[str, torch.nn.Module, torch.Tensor]]:
    """(name, layer, input) of each of our layers; an input needs a gradient where it does in training."""
    seen: dict[str, torch.Tensor] = {}
    layers = our_layers(model)
    hooks = []
    for name, layer in layers:

        def keep(_: Any, inputs: tuple[Any, ...], name: str = name) -> None:
            wants = inputs[0].requires_grad
            seen[name] = inputs[0].detach().clone().requires_grad_(wants)

        hooks.append(layer.register_forward_pre_hook(keep))
    try:
        copy_of_buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        model(images)
        for name, buffer in model.named_buffers():
            buffer.copy_(copy_of_buffers[name])
    finally:
        for hook in hooks:
            hook.remove()
    return [(name, layer, seen[name]) for name, layer in layers if name in seen]


def _measure(
    name: str,
    layer: torch.nn.Module,
    twin: torch.nn.Module,
    input: torch.Tensor,
    seconds: float,
    with_parity: bool,
) -> Row:
    layer, twin = copy.deepcopy(layer), copy.deepcopy(twin)
    with torch.no_grad():
        output = copy.deepcopy(twin)(input)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(7)).to(output)
    parity = _parity(layer, twin, input, grad) if with_parity else []
    channels_last = copy.deepcopy(twin).to(memory_format=torch.channels_last)
    contenders = [
        (layer, input, grad),
        (twin, input, grad),
        (channels_last, _channels_last(input), _channels_last(grad)),
    ]
    ours, *layouts = _medians(contenders, seconds)
    best = min(range(2), key=lambda i: sum(layouts[i]))
    shape = f"{_times(input.shape)} → {_times(output.shape[1:])}"
    return Row(name, shape, parity, ours, layouts[best], ("NCHW", "NHWC")[best])


def _parity(layer: torch.nn.Module, twin: torch.nn.Module, input: torch.Tensor, grad: torch.Tensor) -> list[Parity]:
    names = [name for name, _ in layer.named_parameters()]
    wants_input = input.requires_grad or not names

    def results(of: torch.nn.Module) -> Callable[..., Tensors]:
        def run(input: torch.Tensor, grad: torch.Tensor, *parameters: torch.Tensor) -> Tensors:
            module = copy.deepcopy(of).to(input.dtype)  # its buffers follow the reference's dtype
            with torch.enable_grad():
                x = input.detach().requires_grad_(wants_input)
                leaves = [value.detach().requires_grad_() for value in parameters]
                y = torch.func.functional_call(module, dict(zip(names, leaves, strict=True)), (x,))
                gradients = torch.autograd.grad(y, [*([x] if wants_input else []), *leaves], grad)
            return (y.detach(), *gradients)

        return run

    arguments = (input, grad, *(value for _, value in layer.named_parameters()))
    return measure_parity(results(layer)(*arguments), results(twin), results(twin), *arguments)


def _medians(contenders: Sequence[tuple[torch.nn.Module, torch.Tensor, torch.Tensor]], seconds: float) -> list[Seconds]:
    """Time forward and backward of each, in turns, so that what else the machine does hits all alike."""
    times: list[list[Seconds]] = [[] for _ in contenders]
    for contender in contenders:
        _step(*contender)
    start = time.perf_counter()
    while len(times[0]) < 15 or (time.perf_counter() - start < seconds and len(times[0]) < 1000):
        for contender, taken in zip(contenders, times, strict=True):
            taken.append(_step(*contender))
    return [(median(forward for forward, _ in taken), median(backward for _, backward in taken)) for taken in times]


def _step(layer: torch.nn.Module, input: torch.Tensor, grad: torch.Tensor) -> Seconds:
    parameters = list(layer.parameters())
    x = input.detach().requires_grad_(input.requires_grad or not parameters)
    wanted = [*([x] if x.requires_grad else []), *parameters]
    start = _now(x)
    y = layer(x)
    middle = _now(x)
    torch.autograd.grad(y, wanted, grad)
    return middle - start, _now(x) - middle


def _now(tensor: torch.Tensor) -> float:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter()


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dim() != 4:
        return tensor
    wants = tensor.requires_grad
    return tensor.detach().contiguous(memory_format=torch.channels_last).requires_grad_(wants)


def _times(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))


def report(rows: Sequence[Row]) -> str:
    """The rows as an aligned table, with what the columns mean below."""
    lines = [
        ["layer", "input → output", "error", "(torch)", "gradients", "(torch)", "parity"]
        + ["forward", "(torch)", "", "backward", "(torch)", ""]
    ]
    for row in rows:
        marks = [""] * 5
        if row.parity:
            worst = max(row.parity[1:], key=lambda parity: parity.ours / (parity.allowed or 1))
            marks = [f"{value:.1e}" for p in (row.parity[0], worst) for value in (p.ours, p.torch)]
            marks.append("ok" if row.holds else "BROKEN")
        for ours, theirs in zip(row.ours, row.torch, strict=True):
            marks += [f"{ours * 1e3:.3f} ms", f"{theirs * 1e3:.3f}", f"{theirs / ours:.2f}×"]
        marks[6] += f" {row.layout}"
        lines.append([row.name, row.shape, *marks])
    notes = [
        "error: largest |value − float64 reference|, of the output, and of the gradient nearest to the rule;",
        "parity: ok if ours is at most twice torch's plus the noise of the dtype, everywhere;",
        f"times: medians of turns taken, {torch.get_num_threads()} threads, torch in the faster of its two"
        " layouts; ×: torch's time over ours.",
    ]
    return "\n".join([table(lines, right=range(2, 13)), "", *notes])
