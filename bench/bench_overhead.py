"""What an eager call of ours costs the host beside torch's own, on tiny tensors: `python bench/bench_overhead.py`.

The exit code is 1 if a call costs more than it may: 6 µs above torch's without gradients, 10 µs with them;
2 µs for the choice of the backend `auto`, once it is known.
"""

from __future__ import annotations

import argparse
import sys

import torch

from cnnext.bench.overhead import CHOICE_LIMIT, choice, measure
from cnnext.bench.summary import overhead_table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each row")
    options = parser.parse_args()
    rows = measure(options.backend, torch.device(options.device), options.seconds)
    print(overhead_table(rows))
    cost = choice(torch.device(options.device))
    print(f"a choice of `auto` that is known: {cost * 1e6:.2f} µs, allowed {CHOICE_LIMIT * 1e6:.0f}")
    return 0 if all(row["difference"][1] <= row["limit"] for row in rows) and cost <= CHOICE_LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
