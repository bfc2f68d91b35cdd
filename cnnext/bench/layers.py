"""One layer and one pass, measured: parity first, then ours and its peers in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cnnext.backends import CHOOSERS, get
from cnnext.bench import roof as roofs
from cnnext.bench.passes import check, is_winograd_case, prepare
from cnnext.bench.timing import Contender, Measured, Spread, peak_bytes, ratio, spread, take_turns
from cnnext.testing import Parity
from cnnext.testing.layers import OURS, TORCH, LayerCase

LAYOUTS = ("NCHW", "NHWC")
RUN_BY = {"conv_transpose2d": "conv2d_backward_input", "conv_bn_relu": "conv2d"}
"""The op that a backend must have for one that is no op of its own."""


@dataclass(frozen=True)
class Setting:
    """What all layers are measured with.

    Attributes:
        backends: ours, by name; ``auto`` too.
        device: where.
        layouts: of :data:`LAYOUTS`, for ours; torch runs in both.
        compiled: whether ``torch.compile`` of torch's layer is a peer.
        roof: of :func:`cnnext.bench.roof.measure`.
    """

    backends: Sequence[str]
    device: torch.device
    layouts: Sequence[str]
    compiled: bool
    roof: dict[str, Any]


def measure_layer(
    case: LayerCase, network: str, which: str, dtype: torch.dtype, setting: Setting, seconds: float
) -> dict[str, Any]:
    """A row of results: its parity, and if that holds its times.

    Args:
        case: the layer.
        network: whose it is.
        which: the pass.
        dtype: of all tensors.
        setting: what else decides.
        seconds: to spend on the times, about.
    """
    work = case.work(which, dtype)
    row: dict[str, Any] = {
        "network": network,
        "layer": case.name,
        "op": case.op,
        "shape": case.shape,
        "count": case.count,
        "pass": which,
        "dtype": roofs.name_of(dtype),
        "flops": work.flops,
        "bytes": work.bytes,
        "roof_seconds": roofs.lower_bound(work, dtype, setting.roof),
        "parity": {},
    }
    tensors = {layout: case.tensors(dtype, layout == "NHWC", setting.device) for layout in LAYOUTS}
    ours, first, inputs = {}, {}, {}
    for backend in setting.backends:
        for layout in setting.layouts if len(case.input) == 4 else LAYOUTS[:1]:
            name = f"{backend} {layout}"
            reason = _refusal(case, backend, setting.device, dtype)
            if reason is not None:
                row.setdefault("refused", {})[name] = reason
                continue
            ours[name], inputs[name] = _ours(case, which, backend, tensors[layout]), tensors[layout]
            with ours[name].active():
                first[name] = ours[name].run()
    if ours:
        parities = check(case, which, list(first.values()), list(inputs.values()))
        winograd = is_winograd_case(case, tensors["NCHW"])
        row["parity"] = {name: worst_parity(one, winograd) for name, one in zip(ours, parities, strict=True)}
    if ours and all(parity["holds"] for parity in row["parity"].values()):
        peers = _peers(case, which, tensors, setting.compiled)
        taken = take_turns({**ours, **peers}, setting.device, seconds)
        _require_the_same(case, which, first, taken)
        row.update(figures(taken, list(ours), list(peers)))
        row["peak_bytes"] = {name: peak_bytes(one.run, setting.device) for name, one in _active(ours, peers)}
    return row


def _active(*groups: dict[str, Contender]) -> Any:
    for group in groups:
        for name, one in group.items():
            with one.active():
                yield name, one


def _refusal(case: LayerCase, backend: str, device: torch.device, dtype: torch.dtype) -> str | None:
    if backend in CHOOSERS:
        return None
    return get(backend).can_run(RUN_BY.get(case.op, case.op), device, dtype)


def _ours(case: LayerCase, which: str, backend: str, tensors: Any) -> Contender:
    with Contender(lambda: None, backend).active():
        return Contender(prepare(case, which, OURS, tensors), backend)


def _peers(case: LayerCase, which: str, tensors: dict[str, Any], compiled: bool) -> dict[str, Contender]:
    layouts = LAYOUTS if len(case.input) == 4 else LAYOUTS[:1]
    peers = {f"torch {layout}": Contender(prepare(case, which, TORCH, tensors[layout])) for layout in layouts}
    if compiled:
        function = _Compiled()
        peers |= {
            f"compiled {layout}": Contender(prepare(case, which, function, tensors[layout])) for layout in layouts
        }
    return peers


class _Compiled:
    """torch's functions, each through ``torch.compile``."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        compiled = torch.compile(getattr(TORCH, name), dynamic=False)
        setattr(self, name, compiled)
        return compiled


def worst_parity(parities: Sequence[Parity], winograd: bool) -> dict[str, Any]:
    """The result of a pass that is nearest to its rule, as a part of a row."""
    factor = 16 if winograd else 2

    def allowed(parity: Parity) -> float:
        return factor * parity.torch + parity.floor

    worst = max(parities, key=lambda parity: parity.ours / (allowed(parity) or 1))
    return {
        "error": worst.ours,
        "torch": worst.torch,
        "allowed": allowed(worst),
        "rule": "winograd" if winograd else "twice torch's",
        "holds": all(one.same_specials and one.ours <= allowed(one) for one in parities),
    }


def _require_the_same(case: LayerCase, which: str, first: dict[str, Any], taken: dict[str, Measured]) -> None:
    """What was timed is what was checked: the last timed call gave the results whose parity was measured.

    Raises:
        RuntimeError: it did not.
    """
    for name, results in first.items():
        for before, after in zip(results, taken[name].last, strict=True):
            if not torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max() or 1)):
                raise RuntimeError(f"{case}, {which}: while it was timed, {name} gave another result than before")


def figures(taken: dict[str, Measured], ours: Sequence[str], peers: Sequence[str]) -> dict[str, Any]:
    """The parts of a row that come from the times."""
    times = {name: spread(one.seconds) for name, one in taken.items()}
    best = min(peers, key=lambda name: times[name].median)
    row: dict[str, Any] = {
        "times": {name: list(value) for name, value in times.items()},
        "rounds": len(taken[best].seconds),
        "peer": best,
        "ratios": {name: {peer: list(ratio(taken[name], taken[peer])) for peer in peers} for name in ours},
    }
    host: dict[str, Spread] = {name: spread(one.host_seconds) for name, one in taken.items() if one.host_seconds}
    if host:
        row["host_seconds"] = {name: value.median for name, value in host.items()}
    return row
