"""What a run measures, in which order, and the run itself, within its time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

import torch

from cnnext.bench import environment, overhead, results, roof
from cnnext.bench.layers import Setting, measure_layer
from cnnext.bench.networks import measure_network
from cnnext.bench.passes import passes_of
from cnnext.testing.layer_groups import GROUPS
from cnnext.testing.layers import LayerCase, network_layers
from cnnext.testing.networks import NETWORKS

MOST_SECONDS = {"layers": 2.0, "networks": 30.0, "overhead": 0.2}
"""That a row may take for its times, however much time there is."""
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
SECTIONS = ("overhead", "networks", "layers")
Job = tuple[str, LayerCase, str, str]
"""(network, layer, pass, dtype): a row to be."""


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        networks: keys of NETWORKS, and of :data:`GROUPS`.
        ops: of these only; empty for all.
        passes: of these only.
        backends: ours.
        dtypes: keys of :data:`DTYPES`, and ``tf32`` on a GPU.
        layouts: ours; torch always runs in both.
        sections: of :data:`SECTIONS`.
        device: where.
        minutes: for everything.
        batch: images; the network's own unless said.
        compiled: whether ``torch.compile`` is a peer of layers, too.
        both_biases: whether each convolution runs with a bias and without.
        module: (name, model, images): a user's module instead of the networks.
    """

    networks: Sequence[str]
    ops: Sequence[str]
    passes: Sequence[str]
    backends: Sequence[str]
    dtypes: Sequence[str]
    layouts: Sequence[str]
    sections: Sequence[str]
    device: torch.device
    minutes: float
    batch: int | None = None
    compiled: bool = False
    both_biases: bool = False
    module: tuple[str, torch.nn.Module, torch.Tensor] | None = None
    module_layers: tuple[LayerCase, ...] = field(default=(), repr=False)

    def layers(self) -> list[tuple[str, LayerCase]]:
        """(network, layer), the networks taking turns, so that a run that ends early has something of each."""
        if self.module is not None:
            groups = [[(self.module[0], case) for case in self.module_layers]]
        else:
            groups = [[(name, case) for case in self._cases(name)] for name in self.networks]
        mixed = [one for row in itertools.zip_longest(*groups) for one in row if one is not None]
        mixed = [(name, case) for name, case in mixed if not self.ops or case.op in self.ops]
        if self.both_biases:
            mixed = [(name, other) for name, case in mixed for other in _biases(case)]
        return mixed

    def _cases(self, name: str) -> Sequence[LayerCase]:
        return GROUPS[name] if name in GROUPS else network_layers(name, self.batch_of(name))

    def batch_of(self, name: str) -> int:
        """Images for a network."""
        network = NETWORKS[name]
        return self.batch or (network.gpu_batch if self.device.type == "cuda" else network.batch)

    def jobs(self) -> list[Job]:
        """The rows of the section ``layers``."""
        return [
            (name, case, which, dtype)
            for name, case in self.layers()
            for which in passes_of(case)
            if which in self.passes
            for dtype in self.dtypes
        ]

    def network_jobs(self) -> list[tuple[str, str]]:
        """(network, ``inference`` or ``training``) for the section ``networks``."""
        names = [self.module[0]] if self.module is not None else [name for name in self.networks if name not in GROUPS]
        return [(name, which) for name in names for which in ("inference", "training")]


def _biases(case: LayerCase) -> list[LayerCase]:
    if case.op not in ("conv2d", "conv_transpose2d"):
        return [case]
    return [replace(case, bias=bias, name=f"{case.name}, {'bias' if bias else 'no bias'}") for bias in (True, False)]


class Run:
    """A run of a plan.

    Args:
        plan: what to measure.
        on_row: called with the text of each row before it is measured.
    """

    def __init__(self, plan: Plan, on_row: Callable[[str], Any] = lambda text: None):
        self.plan, self._on_row = plan, on_row
        self._end = time.perf_counter() + 60 * plan.minutes
        self.results: dict[str, Any] = {}

    def __call__(self) -> dict[str, Any]:
        """Measure everything that there is time for; returns the results."""
        plan = self.plan
        if plan.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        dtypes = sorted({DTYPES.get(name, torch.float32) for name in plan.dtypes} | {torch.float32}, key=str)
        self.results = {
            "format": results.FORMAT,
            "version": results.VERSION,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "environment": environment.describe(plan.device),
            "settings": self._settings(),
            "roof": roof.measure(dtypes, plan.device),
            "layers": [],
            "networks": [],
            "overhead": [],
            "left_out": [],
        }
        if "overhead" in plan.sections:
            self._on_row("overhead")
            backend = plan.backends[0]
            self.results["overhead"] = overhead.measure(backend, plan.device, MOST_SECONDS["overhead"])
        if "networks" in plan.sections:
            self._networks(0.3 if "layers" in plan.sections else 1.0)
        if "layers" in plan.sections:
            self._layers()
        return self.results

    def rows(self) -> int:
        """How many times ``on_row`` will be called."""
        plan = self.plan
        counts = {"overhead": 1, "networks": len(plan.network_jobs()), "layers": len(plan.jobs())}
        return sum(counts[section] for section in plan.sections)

    def _settings(self) -> dict[str, Any]:
        plan = self.plan
        names = ("networks", "ops", "passes", "backends", "dtypes", "layouts", "sections")
        return {**{name: list(getattr(plan, name)) for name in names}, "minutes": plan.minutes, "batch": plan.batch}

    def _networks(self, part: float) -> None:
        """Measure whole networks, in ``part`` of the time that is left."""
        jobs = self.plan.network_jobs()
        end = time.perf_counter() + part * (self._end - time.perf_counter())
        for i, (name, which) in enumerate(jobs):
            self._on_row(f"{name} {which}")
            left = end - time.perf_counter()
            if left <= 0:
                self.results["left_out"].append(f"{name} {which}")
                continue
            title, model, images = self._network(name)
            seconds = min(MOST_SECONDS["networks"], 0.5 * left / (len(jobs) - i))
            row = measure_network(name, title, model, images, which, self.plan.backends, seconds, self.plan.compiled)
            self.results["networks"].append(row)

    def _network(self, name: str) -> tuple[str, torch.nn.Module, torch.Tensor]:
        if self.plan.module is not None:
            _, model, images = self.plan.module
            return name, model, images
        network = NETWORKS[name]
        torch.manual_seed(0)
        shape = (self.plan.batch_of(name), *network.image)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        model = network.build(layers=torch.nn)
        with torch.no_grad():
            model.eval()(images[:1])  # lazy layers learn their sizes
        return network.title, model.to(self.plan.device), images.to(self.plan.device)

    def _layers(self) -> None:
        jobs = self.plan.jobs()
        setting = Setting(
            self.plan.backends, self.plan.device, self.plan.layouts, self.plan.compiled, self.results["roof"]
        )
        known: dict[tuple[LayerCase, str, str], dict[str, Any]] = {}
        for i, (network, case, which, dtype) in enumerate(jobs):
            text = f"{case.name} {which} {dtype}"
            self._on_row(text)
            kind = replace(case, name="", count=1), which, dtype
            if kind in known:  # another network has such a layer, too
                row = {**known[kind], "network": network, "layer": case.name, "count": case.count}
                self.results["layers"].append(row)
                continue
            left = self._end - time.perf_counter()
            if left <= 0:
                self.results["left_out"].append(text)
                continue
            seconds = min(MOST_SECONDS["layers"], 0.5 * left / (len(jobs) - i))
            with _tf32(dtype == "tf32"):
                row = measure_layer(case, network, which, DTYPES.get(dtype, torch.float32), setting, seconds)
            known[kind] = row = {**row, "dtype": dtype}
            self.results["layers"].append(row)


class _tf32:  # noqa: N801  (a context manager, used like torch.no_grad)
    """TF32 in convolutions allowed or not, for torch's and ours alike."""

    def __init__(self, allowed: bool):
        self._allowed, self._before = allowed, torch.backends.cudnn.allow_tf32

    def __enter__(self) -> None:
        torch.backends.cudnn.allow_tf32 = self._allowed

    def __exit__(self, *_: object) -> None:
        torch.backends.cudnn.allow_tf32 = self._before


def failures(found: dict[str, Any]) -> list[str]:
    """The rows that failed their parity, in words."""
    lines = [
        f"{row['layer']}, {row['pass']}, {row['dtype']}: {who} has error {parity['error']:.3g}, allowed "
        f"{parity['allowed']:.3g}"
        for row in found["layers"]
        for who, parity in row["parity"].items()
        if not parity["holds"]
    ]
    lines += [
        f"{row['network']}, {row['pass']}: {row['apart']:.1e} from torch's in float64, allowed {row['agree']:.1e}"
        for row in found["networks"]
        if "times" not in row
    ]
    return lines
