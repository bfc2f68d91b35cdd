"""Measuring: turns and ratios, parity before times, result files, whole networks."""

import itertools
import json
import time

import pytest
import torch

import cnnext
from cnnext.backends import current
from cnnext.bench import networks, plan, results, roof, summary
from cnnext.bench.layers import Setting, measure_layer
from cnnext.bench.timing import Contender, Measured, peak_bytes, ratio, spread, take_turns
from cnnext.testing.layer_groups import EDGES
from cnnext.testing.layers import LayerCase

CPU = torch.device("cpu")
ROOF = {"flops": {"float32": 1e11, "bfloat16": 2e11}, "copy": [[2**20, 1e10], [2**30, 5e9]]}
POOL = LayerCase("avg_pool2d", "pool", (2, 4, 16, 16), arguments=(("kernel_size", 2),), count=3)
CONV = LayerCase("conv2d", "conv", (2, 4, 12, 12), (8, 4, 3, 3), True, (("stride", 1), ("padding", 1)))
OURS = "torch" if cnnext.library.cpu_unavailable else "cpu"


def setting(backends=(OURS,), compiled=False):
    return Setting(backends, CPU, ("NCHW", "NHWC"), compiled, ROOF)


class TestTurns:
    def test_every_contender_has_a_turn_in_each_round_after_each_of_the_others(self):
        order = []

        def contender(name):
            def run():
                order.append(name)
                time.sleep(0.006)  # so long that a turn is one call

            return Contender(run)

        taken = take_turns({name: contender(name) for name in "abc"}, CPU, 0, least=12)
        turns = order[6:]  # the first six warm up
        assert all(set(turns[i : i + 3]) == set("abc") for i in range(0, 36, 3))
        assert set(itertools.pairwise(turns)) > set(itertools.permutations("abc", 2))
        assert [len(one.seconds) for one in taken.values()] == [12, 12, 12]

    def test_a_ratio_says_how_much_faster_ours_is(self):
        ours, peer = Measured([1.0, 2.0, 4.0]), Measured([3.0, 2.0, 16.0])
        assert ratio(ours, peer) == (2.0, 3.0, 3.5)  # of the rounds' 3, 1 and 4

    def test_short_calls_are_timed_together(self):
        calls = []
        taken = take_turns({"x": Contender(lambda: calls.append(1))}, CPU, 0, least=2)
        assert len(calls) > 50 and min(taken["x"].seconds) < 1e-4

    def test_the_backend_is_in_force_in_the_turn_and_not_after_it(self):
        seen = set()
        before = current()
        take_turns({"x": Contender(lambda: seen.add(current()), "torch")}, CPU, 0)
        assert seen == {"torch"} and current() == before

    def test_spread(self):
        assert spread([3.0]) == (3.0, 3.0, 3.0)
        assert spread([4.0, 1.0, 2.0, 3.0, 5.0]) == (2.0, 3.0, 4.0)

    def test_peak_memory(self):
        assert peak_bytes(lambda: torch.ones(1000) + torch.ones(1000), CPU) == 3 * 4000


class TestRoof:
    def test_it_is_measured(self, monkeypatch):
        monkeypatch.setattr(roof, "SIZES", (64, 128))
        monkeypatch.setattr(roof, "COPIED", (2**14, 2**16))
        found = roof.measure([torch.float32, torch.bfloat16], CPU, 0.01)
        assert set(found["flops"]) == {"float32", "bfloat16"}
        assert [size for size, _ in found["copy"]] == [2**14, 2**16]
        assert all(rate > 1e6 for rate in [*found["flops"].values(), *(rate for _, rate in found["copy"])])

    def test_lower_bound(self):
        bound = roof.lower_bound
        assert bound(roof.Work(2 * 10**11, 8), torch.float32, ROOF) == 2.0  # by its operations
        assert bound(roof.Work(1, 10**6), torch.float32, ROOF) == 1e-4  # in a cache
        assert bound(roof.Work(1, 10**10), torch.float32, ROOF) == 2.0  # larger than all that were copied


class TestLayer:
    @pytest.mark.parametrize("which", ["forward", "backward_input", "backward_weight", "step"])
    def test_a_row_has_everything(self, which):
        row = measure_layer(CONV, "net", which, torch.float32, setting(), 0.01)
        ours, peers = {f"{OURS} NCHW", f"{OURS} NHWC"}, {"torch NCHW", "torch NHWC"}
        assert set(row["times"]) == ours | peers == set(row["peak_bytes"]) and row["rounds"] >= 5
        assert set(row["parity"]) == set(row["ratios"]) == ours and row["peer"] in peers
        assert all(parity["holds"] for parity in row["parity"].values())
        assert row["times"][row["peer"]][1] == min(row["times"][peer][1] for peer in peers)
        assert (row["network"], row["layer"], row["count"], row["pass"]) == ("net", "conv", 1, which)
        assert row["roof_seconds"] > 0 and row["flops"] == CONV.work(which, torch.float32).flops

    def test_without_parity_there_are_no_times(self, monkeypatch):
        right = cnnext.functional.avg_pool2d
        monkeypatch.setattr(cnnext.functional, "avg_pool2d", lambda *a, **k: right(*a, **k) * 1.0001)
        row = measure_layer(POOL, "net", "forward", torch.float32, setting(), 0.01)
        assert "times" not in row and not any(parity["holds"] for parity in row["parity"].values())
        (first, *_) = plan.failures({"layers": [row], "networks": []})
        assert first.startswith(f"pool, forward, float32: {OURS} NCHW has error")

    def test_what_is_timed_is_what_was_checked(self, monkeypatch):
        right, calls = cnnext.functional.avg_pool2d, []

        def worse_with_time(*arguments, **keywords):
            calls.append(1)
            return right(*arguments, **keywords) * (1 if len(calls) < 4 else 2)

        monkeypatch.setattr(cnnext.functional, "avg_pool2d", worse_with_time)
        with pytest.raises(RuntimeError, match="pool, forward: while it was timed"):
            measure_layer(POOL, "net", "forward", torch.float32, setting(), 0.01)

    def test_a_backend_that_cannot_run_it_says_why(self):
        row = measure_layer(POOL, "net", "forward", torch.float32, setting(["cuda", OURS]), 0.01)
        assert set(row["refused"]) == {"cuda NCHW", "cuda NHWC"} and f"{OURS} NCHW" in row["times"]

    def test_16_bits(self):
        row = measure_layer(POOL, "net", "step", torch.bfloat16, setting(), 0.01)
        assert row["times"] and row["dtype"] == "bfloat16"

    @pytest.mark.slow
    def test_compiled_layers_are_peers(self):
        row = measure_layer(POOL, "net", "forward", torch.float32, setting(compiled=True), 0.01)
        assert {"compiled NCHW", "compiled NHWC"} <= set(row["times"])


class TestNetwork:
    @pytest.fixture
    def small(self):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3),
            torch.nn.BatchNorm2d(4),
            torch.nn.MaxPool2d(2),
            torch.nn.Dropout(0.5),
            torch.nn.Flatten(),
            torch.nn.Linear(100, 10),
        )
        return model, torch.rand(4, 1, 12, 12)

    @pytest.mark.parametrize("which", ["inference", "training"])
    def test_a_row(self, small, which):
        before = {name: value.clone() for name, value in small[0].state_dict().items()}
        row = networks.measure_network("x", "X", *small, which, [OURS], 0.01, compiled=False)
        names = (OURS, f"{OURS}-fused", "torch")
        assert set(row["times"]) == {f"{who} {layout}" for who in names for layout in ("NCHW", "NHWC")}
        assert row["apart"] <= row["agree"] and row["batch"] == 4
        assert all(torch.equal(value, before[name]) for name, value in small[0].state_dict().items())

    def test_one_that_disagrees_has_no_times(self, small, monkeypatch):
        right = cnnext.functional.max_pool2d
        monkeypatch.setattr(cnnext.functional, "max_pool2d", lambda *a, **k: right(*a, **k) + 1e-6)
        row = networks.measure_network("x", "X", *small, "inference", [OURS], 0.01, compiled=False)
        assert "times" not in row and row["apart"] > row["agree"]
        assert "x, inference: " in plan.failures({"layers": [], "networks": [row]})[0]

    @pytest.mark.slow
    def test_compiled_peers_and_what_is_not_installed(self, small):
        row = networks.measure_network("x", "X", *small, "inference", [OURS], 0.01, compiled=True)
        assert {"compiled NCHW", "compiled NHWC"} <= set(row["times"])
        runtimes = {"onnxruntime", "openvino"}
        assert runtimes == (runtimes & set(row["times"])) | set(row.get("absent", {}))


def minimal():
    row = measure_layer(POOL, "net", "forward", torch.float32, setting(), 0.01)
    found = {name: kind() for name, kind in results.TOP.items()}
    return {"format": results.FORMAT, "version": 1, **found, "layers": [row], "networks": [], "overhead": []}


class TestResultFile:
    def test_what_is_written_is_read(self, tmp_path):
        found = minimal()
        results.write(found, tmp_path / "r.json")
        assert results.read(tmp_path / "r.json") == json.loads(json.dumps(found))
        assert [file.name for file in tmp_path.iterdir()] == ["r.json"]

    DAMAGE = {
        "is of version 2, this cnnext reads version 1": lambda r: r.update(version=2),
        "is not a result file": lambda r: r.update(format="other"),
        "it has no list 'layers'": lambda r: r.pop("layers"),
        r"layers\[0\] is damaged: 'op' is None": lambda r: r["layers"][0].pop("op"),
        "'roof' is None": lambda r: r.pop("roof"),
        "is no median with quartiles": lambda r: r["layers"][0]["times"].update(x=[1.0, 2.0]),
        "'peer' is 3": lambda r: r["layers"][0].update(peer=3),
        "its peer 'y' has no time": lambda r: r["layers"][0].update(peer="y"),
    }

    @pytest.mark.parametrize("text", DAMAGE)
    def test_damage_is_told(self, text, tmp_path):
        found = minimal()
        self.DAMAGE[text](found)
        (tmp_path / "r.json").write_text(json.dumps(found))
        with pytest.raises(results.ResultError, match=text):
            results.read(tmp_path / "r.json")

    def test_what_is_no_json(self, tmp_path):
        (tmp_path / "r.json").write_text(json.dumps(minimal())[:-5])
        with pytest.raises(results.ResultError, match="r.json is damaged"):
            results.read(tmp_path / "r.json")
        with pytest.raises(results.ResultError, match="cannot be read: No such file"):
            results.read(tmp_path / "none.json")


class TestSummary:
    def row(self, **times):
        return {
            "op": "conv2d",
            "pass": "forward",
            "dtype": "float32",
            "peer": "torch NCHW",
            "times": {name.replace("_", " "): [t, t, t] for name, t in times.items()},
            "ratios": {
                name.replace("_", " "): {"torch NCHW": [times["torch_NCHW"] / t] * 3}
                for name, t in times.items()
                if not name.startswith("torch")
            },
        }

    def test_figures(self):
        rows = [self.row(cpu_NCHW=1.0, cpu_NHWC=2.0, torch_NCHW=2.0), self.row(cpu_NCHW=4.0, torch_NCHW=2.0)]
        found = {"layers": rows}
        assert summary.contender(rows[0]) == "cpu NCHW" and summary.best_ratio(rows[0]) == [2.0] * 3
        assert summary.by_op(found) == [("conv2d", "forward", "float32", 2, pytest.approx(1.0), 0.5, 2.0)]

    def test_auto_is_measured_against_the_best_of_its_layout(self):
        rows = [self.row(auto_NCHW=1.1, cpu_NCHW=1.0, cpu_NHWC=0.5, torch_NCHW=2.0)]
        assert summary.auto_losses({"layers": rows}) == [pytest.approx(1.1)]
        assert summary.contender(rows[0]) == "cpu NHWC"


def test_biases_on_and_off():
    names = [case.name for case in plan._biases(EDGES[0])]
    assert names == ["edge 1x1 image, bias", "edge 1x1 image, no bias"]
    assert plan._biases(POOL) == [POOL]
