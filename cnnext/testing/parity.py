"""The parity rule: our error against float64 is at most twice torch's own, plus the noise of the dtype.

With r the float64 reference, o ours and t torch's result at the same dtype: max|o − r| ≤ 2·max|t − r| + floor.
The floor is measured, not chosen: it is how far r itself moves when every input is rounded once more (each value
nudged by at most half a unit in its last place), or what rounding r to the dtype costs, whichever is more. In float64
r has rounding noise n of its own, which torch may share with it. n is what the definition loses in float32, scaled
down by the ratio of the two dtypes' precision; it is the floor, and torch's error counts as no less than n.
The factor of two is that of FlashAttention's tests (hopper/test_flash_attn.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Parity:
    """Errors of one result against the float64 reference.

    Attributes:
        ours: max|o − r|.
        torch: max|t − r|.
        floor: the noise of the dtype at this case.
        same_specials: whether NaN and the infinities stand where torch's stand.
    """

    ours: float
    torch: float
    floor: float
    same_specials: bool

    @property
    def allowed(self) -> float:
        """The largest error that the rule lets pass."""
        return 2 * self.torch + self.floor

    @property
    def holds(self) -> bool:
        """Whether the rule is kept."""
        return self.same_specials and self.ours <= self.allowed

    def __str__(self) -> str:
        specials = "" if self.same_specials else ", NaN or Inf at other places than torch's"
        return f"error {self.ours:.3g}, allowed {self.allowed:.3g} (2·{self.torch:.3g} + {self.floor:.3g}){specials}"


def _largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    finite = torch.isfinite(a) & torch.isfinite(b)
    difference = (a.double() - b.double()).abs()[finite]
    return difference.max().item() if difference.numel() else 0.0


def _same_specials(a: torch.Tensor, b: torch.Tensor) -> bool:
    same_nan = torch.equal(torch.isnan(a), torch.isnan(b))
    return same_nan and torch.equal(torch.isposinf(a), torch.isposinf(b)) and torch.equal(a.isneginf(), b.isneginf())


def _nudged(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` in float64, every value moved by up to half a unit in the last place of its dtype."""
    if not tensor.is_floating_point():
        return tensor
    step = torch.finfo(tensor.dtype).eps / 2
    generator = torch.Generator("cpu").manual_seed(1)
    noise = torch.rand(tensor.shape, dtype=torch.float64, generator=generator, device="cpu") * 2 - 1
    return tensor.detach().double() * (1 + step * noise.to(tensor.device))


def _to(tensor: Any, dtype: torch.dtype) -> Any:
    is_floating = isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
    return tensor.detach().to(dtype) if is_floating else tensor


def _rounding(exact: torch.Tensor, dtype: torch.dtype) -> float:
    return _largest_difference(exact.to(dtype), exact)


def _own_noise(exact: torch.Tensor, single: torch.Tensor) -> float:
    return _largest_difference(single, exact) * torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps


def _as_tuple(result: Any) -> tuple[torch.Tensor, ...]:
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)


def measure_parity(
    ours: torch.Tensor | tuple[torch.Tensor, ...],
    reference: Callable[..., Any],
    torch_function: Callable[..., Any],
    *tensors: Any,
    **arguments: Any,
) -> list[Parity]:
    """Measure ``ours`` against ``reference(*tensors)`` in float64, beside ``torch_function(*tensors)``.

    Args:
        ours: the result under test: a tensor, or several.
        reference: the definition; called with the tensors in float64.
        torch_function: torch's own; called with the tensors as they are.
        *tensors: positional arguments; what is not a floating tensor is handed on as it is.
        **arguments: keyword arguments of both functions.

    Returns:
        One :class:`Parity` per result.
    """
    with torch.no_grad():
        exact = _as_tuple(reference(*(_to(x, torch.float64) for x in tensors), **arguments))
        single = _as_tuple(reference(*(_to(x, torch.float32) for x in tensors), **arguments))
        moved = _as_tuple(reference(*(_nudged(x) if isinstance(x, torch.Tensor) else x for x in tensors), **arguments))
        peers = _as_tuple(torch_function(*tensors, **arguments))
    results = []
    for o, r, m, s, t in zip(_as_tuple(ours), exact, moved, single, peers, strict=True):
        error, floor = _largest_difference(t, r), max(_largest_difference(m, r), _rounding(r, o.dtype))
        if o.dtype == torch.float64:
            noise = _own_noise(r, s)
            error, floor = max(error, noise), max(floor, noise)
        results.append(Parity(_largest_difference(o, r), error, floor, _same_specials(o, t)))
    return results


def assert_as_exact_as_torch(
    ours: torch.Tensor | tuple[torch.Tensor, ...],
    reference: Callable[..., Any],
    torch_function: Callable[..., Any],
    *tensors: Any,
    **arguments: Any,
) -> None:
    """Assert the parity rule, and that shape and dtype are torch's; arguments as for :func:`measure_parity`."""
    peers = _as_tuple(torch_function(*tensors, **arguments))
    for o, t in zip(_as_tuple(ours), peers, strict=True):
        assert o.shape == t.shape, f"shape {list(o.shape)}, torch has {list(t.shape)}"
        assert o.dtype == t.dtype, f"dtype {o.dtype}, torch has {t.dtype}"
    for number, parity in enumerate(measure_parity(ours, reference, torch_function, *tensors, **arguments)):
        assert parity.holds, f"result {number}: {parity}"


def assert_as_exact_as_winograd(
    ours: torch.Tensor,
    reference: Callable[..., torch.Tensor],
    torch_function: Callable[..., torch.Tensor],
    *tensors: Any,
    **arguments: Any,
) -> None:
    """Assert the rule for results of Winograd's algorithm, which trades accuracy for speed.

    max|o − r| ≤ 16·max|t − r| + floor, and ‖o − r‖ ≤ 5e-6·‖r‖; arguments as for :func:`measure_parity`.
    """
    (parity,) = measure_parity(ours, reference, torch_function, *tensors, **arguments)
    allowed = 16 * parity.torch + parity.floor
    assert parity.same_specials, str(parity)
    assert parity.ours <= allowed, f"error {parity.ours:.3g}, allowed {allowed:.3g}"
    exact = reference(*(_to(x, torch.float64) for x in tensors), **arguments)
    distance, length = (ours.double() - exact).norm().item(), exact.norm().item()
    assert distance <= 5e-6 * length, f"relative error {distance / length:.3g} in the L2 norm, allowed 5e-6"


def assert_gradients_as_exact_as_torch(
    function: Callable[..., torch.Tensor],
    reference: Callable[..., torch.Tensor],
    torch_function: Callable[..., torch.Tensor],
    *tensors: torch.Tensor | None,
    seed: int = 7,
    **arguments: Any,
) -> None:
    """Assert the parity rule for the gradients with respect to every floating tensor among ``tensors``.

    The three functions return one tensor; its gradient is standard normal, in the layout of ours.
    """
    wanted = [i for i, x in enumerate(tensors) if isinstance(x, torch.Tensor) and x.is_floating_point()]

    def gradients(of: Callable[..., torch.Tensor], values: tuple[Any, ...], grad: Any) -> tuple[torch.Tensor, ...]:
        leaves = [x.detach().requires_grad_(i in wanted) if i in wanted else x for i, x in enumerate(values)]
        with torch.enable_grad():
            output = of(*leaves, **arguments)
            return torch.autograd.grad(output, [leaves[i] for i in wanted], grad(output))

    with torch.no_grad():
        sample = function(*tensors, **arguments)
    generator = torch.Generator("cpu").manual_seed(seed)
    values = torch.randn(sample.shape, generator=generator, dtype=torch.float64, device="cpu")
    grad_output = torch.empty_like(sample).copy_(values)
    ours = gradients(function, tensors, lambda _: grad_output)

    def of_reference(grad: torch.Tensor, *inputs: Any) -> tuple[torch.Tensor, ...]:
        return gradients(reference, inputs, lambda _: grad)

    def of_torch(grad: torch.Tensor, *inputs: Any) -> tuple[torch.Tensor, ...]:
        return gradients(torch_function, inputs, lambda _: grad)

    for number, parity in enumerate(measure_parity(ours, of_reference, of_torch, grad_output, *tensors)):
        assert parity.holds, f"gradient of argument {wanted[number]}: {parity}"
