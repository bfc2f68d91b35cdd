"""A whole network: inference, and a training step with loss, backward and SGD, beside torch's and other runtimes."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from cnnext.backends import AUTO
from cnnext.backends import TORCH as TORCH_BACKEND
from cnnext.bench.layers import figures
from cnnext.bench.roof import name_of
from cnnext.bench.timing import Contender, peak_bytes, take_turns
from cnnext.nn.swap import swap

AGREE = {"inference": 1e-9, "training": 1e-9}
"""How far outputs or losses in float64 may be apart, relative to the largest: there rounding has no time to grow."""
FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
Build = Callable[[], torch.nn.Module]


def measure_network(
    name: str,
    title: str,
    model: torch.nn.Module,
    images: torch.Tensor,
    which: str,
    backends: Sequence[str],
    seconds: float,
    compiled: bool = True,
) -> dict[str, Any]:
    """A row of results for a network.

    Args:
        name, title: of the network.
        model: made of torch's layers, on the device, in float32; it is copied.
        images: what it sees.
        which: ``inference`` or ``training``.
        backends: ours, by name.
        seconds: to spend on the times, about.
        compiled: whether ``torch.compile``, and for inference other runtimes that are installed, are peers.
    """
    model = _without_dropout(model)
    row: dict[str, Any] = {
        "network": name,
        "title": title,
        "batch": images.shape[0],
        "pass": which,
        "dtype": name_of(images.dtype),
        "apart": _apart(model, images, which, [name for name in backends if name != AUTO] or backends),
        "agree": AGREE[which],
    }
    if row["apart"] > AGREE[which]:
        return row
    ours, peers = {}, {}
    for layout, form in FORMATS.items():
        x = images.contiguous(memory_format=form)
        for backend in backends:
            for fuse in (False, True) if backend != AUTO else (False,):
                name = f"{backend}{'-fused' if fuse else ''} {layout}"
                ours[name] = Contender(_runner(_ours(model, form, fuse), x, which), backend)
        peers[f"torch {layout}"] = Contender(_runner(copy.deepcopy(model).to(memory_format=form), x, which))
    if compiled:
        peers |= _compiled(model, images, which)
        if which == "inference":
            peers |= _runtimes(model, images, row)
    taken = take_turns({**ours, **peers}, images.device, seconds)
    row.update(figures(taken, list(ours), list(peers)))
    row["peak_bytes"] = {}
    for who, one in {**ours, **peers}.items():
        with one.active():
            row["peak_bytes"][who] = peak_bytes(one.run, images.device)
    return row


def _without_dropout(model: torch.nn.Module) -> torch.nn.Module:
    """A copy whose results can be compared: dropout would draw differently in each."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return model


def _ours(model: torch.nn.Module, form: torch.memory_format, fuse: bool) -> torch.nn.Module:
    model = copy.deepcopy(model).to(memory_format=form)
    swap(model, fuse=fuse)
    return model


def _runner(model: torch.nn.Module, images: torch.Tensor, which: str) -> Callable[[], torch.Tensor]:
    """Runs inference and returns the scores, or a step of training, always on these images, and returns the loss."""
    if which == "inference":
        model.eval()

        def infer() -> torch.Tensor:
            with torch.no_grad():
                return model(images)

        return infer
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    labels: list[torch.Tensor] = []

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        scores = model(images).flatten(1)
        if not labels:
            generator = torch.Generator().manual_seed(2)
            labels.append(torch.randint(scores.shape[1], (scores.shape[0],), generator=generator).to(scores.device))
        loss = torch.nn.functional.cross_entropy(scores, labels[0])
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _apart(model: torch.nn.Module, images: torch.Tensor, which: str, backends: Sequence[str]) -> float:
    """How far our results are from torch's in float64, on two images: outputs, or the losses of three steps."""
    few = images[:2].double()
    theirs = copy.deepcopy(model).double()

    def results(model: torch.nn.Module, backend: str) -> torch.Tensor:
        contender = Contender(_runner(model, few, which), backend)
        with contender.active():
            return torch.stack([contender.run() for _ in range(3 if which == "training" else 1)])

    copies = [(_ours(theirs, torch.contiguous_format, fuse), name) for name in backends for fuse in (False, True)]
    exact = results(theirs, TORCH_BACKEND.name)
    worst = max(float((results(ours, name) - exact).abs().max()) for ours, name in copies)
    return worst / float(exact.abs().max().clamp_min(1e-300))


def _compiled(model: torch.nn.Module, images: torch.Tensor, which: str) -> dict[str, Contender]:
    """``torch.compile``; for inference with the weights frozen, so that they are packed once."""
    import torch._inductor.config as inductor

    peers = {}
    for layout, form in FORMATS.items():
        one: Any = torch.compile(copy.deepcopy(model).to(memory_format=form), dynamic=False)
        runner = _runner(one, images.contiguous(memory_format=form), which)
        with inductor.patch(freezing=which == "inference"):
            runner()
        peers[f"compiled {layout}"] = Contender(runner)
    return peers


def _runtimes(model: torch.nn.Module, images: torch.Tensor, row: dict[str, Any]) -> dict[str, Contender]:
    """ONNX Runtime and OpenVINO on the CPU, those that are installed; why others are not there goes into the row."""
    if images.device.type != "cpu" or images.dtype != torch.float32:
        return {}
    peers = {}
    for name, make in (("onnxruntime", _onnxruntime), ("openvino", _openvino)):
        try:
            peers[name] = Contender(make(copy.deepcopy(model).eval(), images))
        except Exception as error:  # an exporter of another project: whatever it raises, the others go on
            row.setdefault("absent", {})[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return peers


def _onnxruntime(model: torch.nn.Module, images: torch.Tensor) -> Callable[[], Any]:
    import onnxruntime  # type: ignore[import-not-found, unused-ignore]

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        torch.onnx.export(model, (images,), str(file))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, feed)


def _openvino(model: torch.nn.Module, images: torch.Tensor) -> Callable[[], Any]:
    import openvino  # type: ignore[import-not-found, unused-ignore]

    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    converted = openvino.convert_model(model, example_input=images)
    compiled = openvino.Core().compile_model(converted, "CPU", settings)
    feed = [images.numpy()]
    return lambda: compiled(feed)
