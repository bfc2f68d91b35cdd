"""The test that every bench_<op>.py has: one layer, one pass, one dtype."""

from __future__ import annotations

from cnnext.bench.layers import measure_layer
from cnnext.bench.passes import OURS, prepare
from cnnext.bench.plan import DTYPES
from cnnext.bench.summary import best_ratio, contender
from cnnext.bench.timing import Contender


def test_layer(job, setting, benchmark, keep_row, request):
    network, case, which, dtype = job
    row = measure_layer(case, network, which, DTYPES[dtype], setting, request.config.getoption("--row-seconds"))
    broken = {who: parity for who, parity in row["parity"].items() if not parity["holds"]}
    assert row["parity"], f"nothing of ours runs it: {row['refused']}"
    assert not broken, f"less exact than torch: {broken}"
    keep_row(row)
    who = contender(row)
    backend, _, layout = who.partition(" ")
    seconds = row["times"][who][1]
    benchmark.extra_info.update(
        {"ours": who, "peer": row["peer"], "ratio": best_ratio(row), "parity": row["parity"][who]}
        | {"gflops": row["flops"] / seconds / 1e9, "gbytes": row["bytes"] / seconds / 1e9}
        | {"of_roof": row["roof_seconds"] / seconds, "shape": row["shape"], "peak_bytes": row["peak_bytes"][who]}
    )
    with Contender(lambda: None, backend).active():
        run = prepare(case, which, OURS, case.tensors(DTYPES[dtype], layout == "NHWC", setting.device))
        benchmark.pedantic(_synchronised(run, setting.device), rounds=5, warmup_rounds=1)


def _synchronised(run, device):
    """On a GPU the call together with the kernels that it started."""
    if device.type != "cuda":
        return run
    import torch

    def wait():
        run()
        torch.cuda.synchronize(device)

    return wait
