"""A training step of the chapters' models on our layers beside PyTorch's: forward, loss, backward and SGD.

    python bench/bench_models.py lenet resnet18 --seconds 10

Three models with the same weights take turns of a few steps each: ours, and torch's layers in both layouts, so that
what else the machine does hits all alike. The first step of a turn finds the other models' data in the caches, as no
step of a training does, and is not counted (``--steps-a-turn 1`` counts it). First the losses of a few steps must
agree, in float64, where rounding has no time to grow (in float32 torch's own two layouts may part by the third step);
a model whose losses do not makes the command fail. Ours keeps NCHW. The layers one by one, forward and backward, are
measured by ``cnnext compare``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch

import cnnext
from cnnext.info import isa
from cnnext.recipes import RECIPES, build

AGREE_STEPS, AGREE_BATCH, AGREE = 3, 4, 1e-9


def stepper(
    name: str, layers: object, layout: torch.memory_format, batch: int, dtype: torch.dtype = torch.float32
) -> Callable[[], float]:
    """A function that trains one step on the same minibatch each time and returns the loss before it."""
    recipe = RECIPES[name]
    model = build(name, seed=0, layers=layers).to(dtype).to(memory_format=layout)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(batch, 1, recipe.size, recipe.size, generator=generator)
    images = images.to(dtype).contiguous(memory_format=layout)
    labels = torch.randint(10, (batch,), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr)
    for module in model.modules():  # its draws would differ between the models
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def losses_apart(name: str) -> float:
    """Largest difference between the losses of ours and of torch's layers over the first steps, in float64."""
    ours, theirs = (
        stepper(name, layers, torch.contiguous_format, AGREE_BATCH, torch.float64) for layers in (None, torch.nn)
    )
    return max(abs(ours() - theirs()) for _ in range(AGREE_STEPS))


def measure(name: str, batch: int, seconds: float, steps_a_turn: int) -> bool:
    """Print one line for a model; whether the losses agreed."""
    apart = losses_apart(name)
    contiguous, channels_last = torch.contiguous_format, torch.channels_last
    steps = {
        "ours": stepper(name, None, contiguous, batch),
        "NCHW": stepper(name, torch.nn, contiguous, batch),
        "NHWC": stepper(name, torch.nn, channels_last, batch),
    }
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {who: [] for who in steps}
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(times["ours"]) < 5:
        for who, step in steps.items():
            if steps_a_turn > 1:
                step()
            for _ in range(max(1, steps_a_turn - 1)):
                before = time.perf_counter()
                step()
                times[who].append(time.perf_counter() - before)
    ours, best = times["ours"], min((times[who] for who in ("NCHW", "NHWC")), key=statistics.median)
    ratios = [b / a for a, b in zip(ours, best, strict=True)]
    quarters = statistics.quantiles(ratios, n=4)
    print(
        f"{name:12} batch {batch:4}  ours {statistics.median(ours) * 1e3:8.2f} ms  "
        f"torch {statistics.median(best) * 1e3:8.2f} ms  ratio {quarters[1]:.2f} ({quarters[0]:.2f} to "
        f"{quarters[2]:.2f})  steps {len(ours)}  losses apart {apart:.1e}"
    )
    return apart < AGREE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["lenet"], help=f"of {', '.join(RECIPES)}; lenet unless said")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=10, help="for each model")
    parser.add_argument("--steps-a-turn", type=int, default=6, help="of which the first is not counted, unless it is 1")
    options = parser.parse_args()
    if options.steps_a_turn < 1:
        parser.error(f"--steps-a-turn must be at least 1, but is {options.steps_a_turn}")
    for name in options.models:
        if name not in RECIPES:
            parser.error(f"model {name!r} is unknown: choose of {', '.join(RECIPES)}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {isa()}; ratio: torch's time over ours,")
    print("median and quartiles over the steps; torch in the faster of its two layouts")
    with cnnext.backend("cpu"):
        agreed = [measure(name, options.batch_size, options.seconds, options.steps_a_turn) for name in options.models]
    return 0 if all(agreed) else 1


if __name__ == "__main__":
    sys.exit(main())
