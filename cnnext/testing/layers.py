"""One layer as a case that tests and benchmarks share, and the layers of any module as such cases."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

import cnnext.functional
from cnnext.testing.networks import NETWORKS
from cnnext.testing.tensors import make_tensor

Tensors = list[Any]
"""The tensors of an op in the order of its arguments; None for one that is not there."""


class _TorchFunctions:
    """torch's own functions under our names, with some for what torch has not."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.nn.functional, name)

    @staticmethod
    def corr2d(input: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(input[None, None], kernel[None, None])[0, 0]

    @staticmethod
    def conv_bn_relu(
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        bn_weight: torch.Tensor,
        bn_bias: torch.Tensor,
        running_mean: torch.Tensor,
        running_var: torch.Tensor,
        residual: torch.Tensor | None,
        training: bool,
        **geometry: Any,
    ) -> torch.Tensor:
        output = torch.nn.functional.conv2d(input, weight, bias, **geometry)
        output = torch.nn.functional.batch_norm(output, running_mean, running_var, bn_weight, bn_bias, training)
        return torch.nn.functional.relu(output if residual is None else output + residual, inplace=True)


OURS: Any = cnnext.functional
TORCH: Any = _TorchFunctions()
KINDS = {
    torch.nn.Conv2d: "conv2d",
    torch.nn.ConvTranspose2d: "conv_transpose2d",
    torch.nn.MaxPool2d: "max_pool2d",
    torch.nn.AvgPool2d: "avg_pool2d",
    torch.nn.AdaptiveAvgPool2d: "adaptive_avg_pool2d",
    torch.nn.BatchNorm2d: "batch_norm",
}
_ATTRIBUTES = {
    "conv2d": ("stride", "padding", "dilation", "groups"),
    "conv_transpose2d": ("stride", "padding", "output_padding", "groups", "dilation"),
    "max_pool2d": ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "avg_pool2d": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    "adaptive_avg_pool2d": ("output_size",),
    "batch_norm": ("eps",),
}
_USUAL = {
    "stride": 1,
    "padding": 0,
    "output_padding": 0,
    "dilation": 1,
    "groups": 1,
    "ceil_mode": False,
    "count_include_pad": True,
    "divisor_override": None,
    "eps": 1e-5,
    "residual": False,
}
_BUFFERS = {"batch_norm": (1, 2), "conv_bn_relu": (5, 6)}
_WEIGHTS = {"batch_norm": (3, 4), "conv_bn_relu": (1, 2, 3, 4)}


class Work(NamedTuple):
    """What a pass must do at the least: floating-point operations, and bytes read and written once."""

    flops: int
    bytes: int


@dataclass(frozen=True)
class LayerCase:
    """One call of an op.

    Attributes:
        op: its name in ``cnnext.functional``.
        name: model and layer, or what is special about it.
        input: shape of the input.
        weight: shape of the weight, or the kernel; () for ops without.
        bias: whether there is one (batch_norm: whether there are weight and bias).
        arguments: further keyword arguments, as pairs; ``residual`` says whether conv_bn_relu adds one.
        count: how often the model has it.
    """

    op: str
    name: str
    input: tuple[int, ...]
    weight: tuple[int, ...] = ()
    bias: bool = False
    arguments: tuple[tuple[str, Any], ...] = ()
    count: int = 1

    def __str__(self) -> str:
        return self.name

    @property
    def shape(self) -> str:
        """Input, weight and what is not usual of the arguments, in words."""
        parts = ["×".join(map(str, self.input))]
        if len(self.weight) > 1:
            parts.append("weight " + "×".join(map(str, self.weight)))
        for name, value in self.arguments:
            short = value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value
            if name not in _USUAL or short != _USUAL[name]:
                parts.append(f"{name} {short}")
        if self.op.startswith("conv") and not self.bias:
            parts.append("no bias")
        return ", ".join(parts)

    @property
    def buffers(self) -> tuple[int, ...]:
        """Positions of running mean and variance among the tensors."""
        return _BUFFERS.get(self.op, ())

    @property
    def weights(self) -> tuple[int, ...]:
        """Positions of weights and biases."""
        return _WEIGHTS.get(self.op, (1, 2))

    def tensors(
        self,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        device: str | torch.device = "cpu",
    ) -> Tensors:
        """The op's tensors, seeded, with NaN around them; weights are scaled so that outputs are of order one."""
        tensors: Tensors = []
        for number, shape in enumerate(self._shapes()):
            nhwc = channels_last and shape is not None and len(shape) == 4
            one = None if shape is None else make_tensor(shape, dtype, channels_last=nhwc, seed=number, device=device)
            tensors.append(one)
        if self.buffers:
            tensors[self.buffers[1]].square_().add_(0.5)  # a variance
        if self.op == "conv_bn_relu":  # no value so near to zero that rounding decides what the ReLU does
            tensors[4].copy_(torch.sign(tensors[4]) * 12)
        if len(self.weight) > 1:
            tensors[1].mul_(math.prod(self.weight[1:]) ** -0.5)
        return tensors

    def _shapes(self) -> list[tuple[int, ...] | None]:
        if self.op == "batch_norm":
            one = (self.input[1],)
            return [self.input, one, one, *([one, one] if self.bias else [None, None])]
        if not self.weight:
            return [self.input]
        if self.op == "corr2d":
            return [self.input, self.weight]
        groups = dict(self.arguments).get("groups", 1)
        channels = self.weight[1] * groups if self.op == "conv_transpose2d" else self.weight[0]
        shapes = [self.input, self.weight, (channels,) if self.bias else None]
        if self.op == "conv_bn_relu":
            residual = self._convolved if dict(self.arguments)["residual"] else None
            return [*shapes, *[(channels,)] * 4, residual]
        return shapes

    @functools.cached_property
    def _convolved(self) -> tuple[int, ...]:
        input, weight = (torch.empty(shape, device="meta") for shape in (self.input, self.weight))
        arguments: dict[str, Any] = {name: value for name, value in self.arguments if name != "residual"}
        return tuple(torch.nn.functional.conv2d(input, weight, **arguments).shape)

    def call(self, functions: Any, tensors: Tensors, training: bool = False) -> torch.Tensor:
        """The op by :data:`OURS` or :data:`TORCH`; ``training`` is that of a norm."""
        arguments = {name: value for name, value in self.arguments if name != "residual"}
        if self.buffers:
            arguments["training"] = training
        return getattr(functions, self.op)(*tensors, **arguments)

    @functools.cached_property
    def output(self) -> tuple[int, ...]:
        """Shape of the output."""
        meta = [None if shape is None else torch.empty(shape, device="meta") for shape in self._shapes()]
        return tuple(self.call(TORCH, meta).shape)

    def work(self, which: str, dtype: torch.dtype) -> Work:
        """The least work of a pass: ``forward``, ``backward_input``, ``backward_weight`` or ``step``."""
        x, w, y = (math.prod(shape) if shape else 0 for shape in (self.input, self.weight, self.output))
        flops = self._flops(x, w, y)
        counts = {
            "forward": (flops, x + w + y),
            "backward_input": (flops, y + w + x),
            "backward_weight": (flops, y + x + w),
        }
        counts["step"] = (3 * flops, x + w + y + y + w + x + w) if w else (2 * flops, 2 * (x + y))
        if self.op == "batch_norm" and which != "forward":  # the gradient needs the input again
            counts.update(backward_input=(flops, 3 * x), backward_weight=(flops, 2 * x), step=(2 * flops, 5 * x))
        done, elements = counts[which]
        return Work(done, elements * dtype.itemsize)

    def _flops(self, x: int, w: int, y: int) -> int:
        if self.op == "corr2d":
            return 2 * y * w
        if self.op in ("conv2d", "conv_bn_relu"):
            return 2 * y * w // self.weight[0]
        if self.op == "conv_transpose2d":
            return 2 * x * w // self.weight[0]
        if self.op == "batch_norm":
            return 2 * x
        if self.op == "adaptive_avg_pool2d":
            return x
        size = dict(self.arguments)["kernel_size"]
        return y * (size * size if isinstance(size, int) else math.prod(size))


def from_module(name: str, module: torch.nn.Module, input: tuple[int, ...]) -> LayerCase | None:
    """A layer that sees inputs of that shape as a case; None if it is of no kind that we have."""
    op = next((op for kind, op in KINDS.items() if isinstance(module, kind)), None)
    if op is None or len(input) != 4 or getattr(module, "padding_mode", "zeros") != "zeros":
        return None
    weight = getattr(module, "weight", None)
    values = tuple((key, _plain(getattr(module, key))) for key in _ATTRIBUTES[op])
    if op == "batch_norm":
        return LayerCase(op, name, input, (input[1],) if weight is not None else (), weight is not None, values)
    shape = () if weight is None else tuple(weight.shape)
    return LayerCase(op, name, input, shape, getattr(module, "bias", None) is not None, values)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def layers_of(model: torch.nn.Module, input: torch.Tensor, title: str = "") -> list[LayerCase]:
    """Every convolution, pool and norm of ``model`` as it is used on ``input``; those that are alike are counted.

    Args:
        model: any module; a model on ``meta`` costs no time.
        input: what it is called with, in evaluation mode and without gradients; where the model lies.
        title: put before the layers' names.
    """
    found: dict[LayerCase, LayerCase] = {}
    hooks = []

    def see(name: str, module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        shape = tuple(inputs[0].shape) if inputs and isinstance(inputs[0], torch.Tensor) else ()
        case = from_module(f"{title} {name}".strip(), module, shape)
        if case is not None:
            key = replace(case, name="")
            known = found.get(key)
            found[key] = case if known is None else replace(known, count=known.count + 1)

    modes = {module: module.training for module in model.modules()}
    for name, layer in model.named_modules():  # a lazy layer is of its kind when it is called
        hooks.append(layer.register_forward_pre_hook(functools.partial(see, name)))
    try:
        with torch.no_grad():
            model.eval()(input)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return list(found.values())


@functools.cache
def network_layers(name: str, batch: int) -> tuple[LayerCase, ...]:
    """The distinct layers of a network of :data:`~cnnext.testing.networks.NETWORKS` for a batch of that size."""
    network = NETWORKS[name]
    with torch.device("meta"):
        model = network.build(layers=torch.nn)
        return tuple(layers_of(model, torch.empty(batch, *network.image), name))
