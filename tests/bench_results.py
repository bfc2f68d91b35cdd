"""Results as `cnnext bench` writes them, with made-up figures: two layers of one network, an edge, a failure."""

import copy

from cnnext.bench import results


def _spread(median):
    return [0.9 * median, median, 1.2 * median]


def _row(network, layer, op, which, ours, peer, error=2e-7):
    times = {"cpu NCHW": ours, "cpu NHWC": 1.5 * ours, "torch NCHW": peer, "torch NHWC": 1.25 * peer}
    parity = {"error": error, "torch": 1.5e-7, "allowed": 4e-7, "rule": "twice torch's", "holds": error <= 4e-7}
    row = {
        "network": network,
        "layer": layer,
        "op": op,
        "shape": "2×4×16×16 <b>",  # what a page must not take for markup
        "count": 3,
        "pass": which,
        "dtype": "float32",
        "flops": 3_000_000,
        "bytes": 1_000_000,
        "roof_seconds": 0.25 * ours,
        "parity": {"cpu NCHW": parity, "cpu NHWC": {**parity, "error": 0.5 * error}},
        "refused": {"cuda NCHW": "it needs a GPU"},
    }
    if parity["holds"]:
        ratios = {
            who: {other: _spread(times[other] / times[who]) for other in times if other.startswith("torch")}
            for who in ("cpu NCHW", "cpu NHWC")
        }
        row |= {"times": {who: _spread(time) for who, time in times.items()}, "peer": "torch NCHW", "ratios": ratios}
        row |= {"rounds": 7, "peak_bytes": {"cpu NCHW": 4096, "torch NCHW": 5_000_000}}
    return row


def _network(which, ours, peer):
    row = _row("net", "", "", which, ours, peer)
    shared = {name: row[name] for name in ("network", "pass", "dtype", "times", "ratios", "peer", "peak_bytes")}
    return shared | {"title": "Net", "batch": 8, "apart": 1e-15, "agree": 1e-9, "absent": {"openvino": "not installed"}}


def made_up(faster=1.0):
    """A result file; ``faster`` divides every time of ours."""
    found = {
        "format": results.FORMAT,
        "version": results.VERSION,
        "created": "2026-01-02T03:04:05+00:00",
        "environment": {
            "commit": "0123456789abcdef",
            "changed": True,
            "torch": "2.14.1",
            "processor": "A processor",
            "threads": 2,
            "isa": "avx2",
            "load": [0.5, 0.25, 0.125],
            "device": "cpu",
            "gpu": None,
        },
        "settings": {"networks": ["net", "edge"], "minutes": 3.0, "batch": None},
        "roof": {"flops": {"float32": 2e11}, "copy": [[2**20, 3e10], [2**29, 1e10]]},
        "layers": [
            _row("net", "net conv", "conv2d", "forward", 4e-4 / faster, 6e-4),
            _row("net", "net conv", "conv2d", "step", 2e-3 / faster, 1e-3, error=3.9e-7),
            _row("net", "net pool", "max_pool2d", "forward", 5e-6 / faster, 2e-5),
            _row("edge", "edge wrong", "conv2d", "forward", 1e-3, 1e-3, error=5e-7),
        ],
        "networks": [_network("inference", 0.02 / faster, 0.03), _network("training", 0.1 / faster, 0.09)],
        "overhead": [
            {
                "op": "conv2d",
                "gradients": gradients,
                "ours": _spread(1.2e-5),
                "torch": _spread(7e-6),
                "difference": _spread(5e-6),
                "limit": 6e-6,
            }
            for gradients in (False, True)
        ],
        "left_out": ["net pool step float32"],
    }
    return copy.deepcopy(found)
