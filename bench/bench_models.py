"""Inference and a training step of whole networks on our layers beside PyTorch's.

    python bench/bench_models.py lenet resnet18 --minutes 2

Models with the same weights take turns: ours, and torch's layers in both layouts, with ``--compile`` compiled too, and
for inference ONNX Runtime and OpenVINO where they are installed. First their outputs and the losses of a few steps must
agree, in float64; a network whose do not makes the command fail. It is ``cnnext bench --sections networks``. The layers
one by one are measured by ``cnnext bench --sections layers``, and with their errors by ``cnnext compare``.
"""

from __future__ import annotations

import sys

from cnnext.cli import main

if __name__ == "__main__":
    split = next((i for i, word in enumerate(sys.argv[1:]) if word.startswith("-")), len(sys.argv) - 1)
    names, options = sys.argv[1 : split + 1], sys.argv[split + 1 :]
    sys.exit(main(["bench", "--sections", "networks", "--networks", *(names or ["lenet"]), *options]))
