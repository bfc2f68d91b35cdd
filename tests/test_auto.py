"""The backend ``"auto"``: what it measures, when it does not, and what it remembers."""

import json
import subprocess
import sys
import threading

import pytest
import torch

import cnnext
import cnnext.functional as F
from cnnext import auto
from cnnext.backends import CPU, TORCH, choose, current, get
from cnnext.choices import Choices
from cnnext.testing import make_tensor

pytestmark = pytest.mark.skipif(
    cnnext.library.cpu_unavailable is not None, reason="there is no choice without a library"
)


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    """Where the choices go; "auto" is in force and has measured nothing."""
    monkeypatch.setenv("CNNEXT_CACHE", str(tmp_path))
    monkeypatch.setattr(auto, "SECONDS", 0.001)
    forget(monkeypatch)
    monkeypatch.setattr(auto, "measured", [])
    with cnnext.backend("auto"):
        yield auto.cache_file(torch.device("cpu"), torch.get_num_threads())


def forget(monkeypatch):
    """As in another process."""
    monkeypatch.setattr(auto, "_chosen", {})
    monkeypatch.setattr(auto, "_tables", {})


@pytest.fixture
def winner(monkeypatch):
    """Lets a backend win, and counts what is measured."""
    calls = []

    def let(name):
        def measure(able, function, tensors, others):
            calls.append(function.__name__)
            return {one.name: 1.0 if one.name == name else 2.0 for one in able}

        monkeypatch.setattr(auto, "_measure", measure)
        return calls

    return let


def chosen_for_pool(x, size=2):
    return choose("avg_pool2d", x, F.avg_pool2d, (), ((size, size), (size, size), (0, 0), False, True, None))


CALLS = {
    "conv2d": lambda x: F.conv2d(x, make_tensor((6, 4, 3, 3), seed=1), make_tensor((6,), seed=2), padding=1),
    "conv2d same": lambda x: F.conv2d(x, make_tensor((6, 4, 3, 3), seed=1), padding="same", stride=[1, 1]),
    "conv2d unbatched": lambda x: F.conv2d(x[0], make_tensor((6, 4, 3, 3), seed=1)),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x, make_tensor((4, 6, 3, 3), seed=1), None, 2),
    "max_pool2d": lambda x: F.max_pool2d(x, 2, return_indices=True)[1],
    "avg_pool2d": lambda x: F.avg_pool2d(x, [2, 3]),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 3),
    "batch_norm": lambda x: F.batch_norm(x, torch.zeros(4), torch.ones(4), training=True),
    "conv_bn_relu": lambda x: F.conv_bn_relu(
        x,
        make_tensor((4, 4, 3, 3), seed=1),
        None,
        None,
        None,
        torch.zeros(4),
        torch.ones(4),
        x,
        training=True,
        padding=1,
    ),
    "conv_bn_relu in evaluation": lambda x: F.conv_bn_relu(
        x, make_tensor((6, 4, 3, 3), seed=1), None, torch.ones(6), torch.ones(6), torch.zeros(6), torch.ones(6)
    ),
    "corr2d": lambda x: F.corr2d(x[0, 0], make_tensor((2, 2), seed=1)),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("grad", [False, True])
def test_every_op_is_measured_once_and_right(name, grad, file):
    x = make_tensor((2, 4, 8, 9), requires_grad=grad)
    first = CALLS[name](x)
    count = len(auto.measured)
    assert count >= 1 and all(set(times) == {"cpu", "torch"} for _, times in auto.measured)
    assert torch.equal(CALLS[name](x), first) and len(auto.measured) == count and x.grad is None
    with cnnext.backend("torch"):
        torch.testing.assert_close(first, CALLS[name](x))
    fastest = {kind: min(times, key=times.get) for kind, times in auto.measured}
    assert json.loads(file.read_text()) == fastest


@pytest.mark.parametrize("name", ["cpu", "torch"])
def test_the_winner_runs_the_call(name, winner):
    winner(name)
    x = make_tensor((2, 4, 8, 8), requires_grad=True)
    assert chosen_for_pool(x) is get(name)
    ours = "avg_pool2d_function" in type(F.avg_pool2d(x, 2).grad_fn).__name__
    assert ours == (name == "cpu")


def test_another_process_does_not_measure(winner, monkeypatch):
    calls = winner("torch")
    x = make_tensor((2, 4, 8, 8))
    assert chosen_for_pool(x) is TORCH and len(calls) == 1
    forget(monkeypatch)
    assert chosen_for_pool(x) is TORCH and len(calls) == 1


def test_a_real_other_process_uses_it(winner, tmp_path, monkeypatch):
    winner("torch")
    chosen_for_pool(make_tensor((2, 4, 8, 8)))
    program = f"""
import os, torch, cnnext, cnnext.functional as F
from cnnext import auto
os.environ["CNNEXT_CACHE"] = {str(tmp_path)!r}  # now, for the library lies in the cache of before
torch.set_num_threads({torch.get_num_threads()})
cnnext.backend("auto")
F.avg_pool2d(torch.zeros(2, 4, 8, 8), 2)
print(auto.measured, [one.name for one in auto._chosen.values()])
"""
    monkeypatch.delenv("CNNEXT_CACHE")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] ['torch']"


KINDS = {
    "batch in the same bucket": (False, lambda x: x.new_zeros(7, 4, 8, 8)),
    "larger batch": (True, lambda x: x.new_zeros(9, 4, 8, 8)),
    "other image": (True, lambda x: x.new_zeros(8, 4, 8, 9)),
    "other layout": (True, lambda x: x.contiguous(memory_format=torch.channels_last)),
    "with gaps": (True, lambda x: x.new_zeros(8, 4, 8, 16)[..., ::2]),
    "other dtype": (True, lambda x: x.bfloat16()),
    "with a gradient": (True, lambda x: x.clone().requires_grad_()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_shares_a_choice(kind, winner):
    calls = winner("cpu")
    x = make_tensor((8, 4, 8, 8))
    chosen_for_pool(x)
    anew, change = KINDS[kind]
    chosen_for_pool(change(x))
    assert len(calls) == 1 + anew


def test_other_arguments_and_threads_are_measured_anew(winner):
    calls = winner("cpu")
    x = make_tensor((8, 4, 8, 8))
    chosen_for_pool(x)
    chosen_for_pool(x, size=3)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        chosen_for_pool(x)
    finally:
        torch.set_num_threads(threads)
    assert len(calls) == 3


class TestNothingIsMeasured:
    @pytest.fixture(autouse=True)
    def not_at_all(self, winner):
        calls = winner("torch")
        yield
        assert calls == []

    def test_with_deterministic_algorithms(self):
        torch.use_deterministic_algorithms(True)
        try:
            assert chosen_for_pool(make_tensor((2, 4, 8, 8))) is CPU
        finally:
            torch.use_deterministic_algorithms(False)

    def test_under_transforms(self):
        seen = []
        x = make_tensor((2, 4, 8, 8))
        torch.func.grad(lambda y: seen.append(chosen_for_pool(y)) or y.sum())(x)
        torch.func.vmap(lambda y: seen.append(chosen_for_pool(y)) or y)(x[None])
        assert seen == [CPU, CPU]

    def test_on_meta_and_fake_tensors(self):
        assert chosen_for_pool(torch.empty(2, 4, 8, 8, device="meta")) is CPU
        with torch._subclasses.FakeTensorMode():
            assert chosen_for_pool(torch.empty(2, 4, 8, 8)) is CPU

    def test_in_subclasses(self):
        class Mine(torch.Tensor):
            pass

        assert chosen_for_pool(make_tensor((2, 4, 8, 8)).as_subclass(Mine)) is CPU

    def test_of_nothing(self):
        assert chosen_for_pool(torch.empty(0, 4, 8, 8)) is CPU

    def test_where_nothing_can_be_chosen(self, monkeypatch):
        monkeypatch.setattr(auto, "candidates", lambda op, tensor: [TORCH])
        chosen_for_pool(make_tensor((2, 4, 8, 8)))


@pytest.fixture
def compiled():
    """The ops that torch.compile makes of a pool."""
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph.code)
        return graph.forward

    torch._dynamo.reset()
    yield torch.compile(lambda x: F.avg_pool2d(x, 2), fullgraph=True, backend=keep), graphs
    torch._dynamo.reset()


def test_compiled_code_uses_what_is_known_and_measures_nothing(winner, compiled, monkeypatch):
    function, graphs = compiled
    calls = winner("torch")
    x = make_tensor((2, 4, 8, 8))
    torch.testing.assert_close(function(x), torch.nn.functional.avg_pool2d(x, 2))
    assert calls == [] and "cnnext.avg_pool2d" in graphs[0]
    chosen_for_pool(x)  # now it is known
    torch._dynamo.reset()
    function(x)
    assert len(calls) == 1 and "cnnext" not in graphs[1] and "avg_pool2d" in graphs[1]
    forget(monkeypatch)  # and in another process, by its file
    torch._dynamo.reset()
    function(x)
    assert len(calls) == 1 and "cnnext" not in graphs[2]


def test_compiled_code_of_any_size_is_traced(compiled):
    function, graphs = compiled
    for n in (2, 3, 5):
        x = make_tensor((n, 4, 8 + n, 8))
        torch.testing.assert_close(function(x), torch.nn.functional.avg_pool2d(x, 2))
    assert auto.measured == []


class TestWhatAMeasurementLeavesAlone:
    def test_running_statistics_change_once(self):
        mean, var = torch.zeros(4), torch.ones(4)
        x = make_tensor((2, 4, 8, 8)) + 5
        F.batch_norm(x, mean, var, training=True)
        assert len(auto.measured) == 1
        torch.testing.assert_close(mean, 0.1 * x.mean((0, 2, 3)))

    def test_running_statistics_of_a_fused_layer_change_once(self):
        mean, var, x = torch.zeros(4), torch.ones(4), make_tensor((2, 4, 8, 8)) + 5
        weight = torch.eye(4)[:, :, None, None]
        F.conv_bn_relu(x, weight, None, None, None, mean, var, training=True)
        assert auto.measured
        torch.testing.assert_close(mean, 0.1 * x.mean((0, 2, 3)))

    def test_the_callers_hooks_modes_and_backend(self):
        packed = []
        x = make_tensor((2, 4, 8, 8), requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
            F.conv2d(x, make_tensor((4, 4, 3, 3), seed=1, requires_grad=True))
        assert len(auto.measured) == 1 and len(packed) == 2 and current() == "auto"
        assert auto._thread.forced is None

    def test_in_inference_mode(self):
        with torch.inference_mode():
            F.avg_pool2d(make_tensor((2, 4, 8, 8)), 2)
        assert len(auto.measured) == 1

    def test_wrong_arguments_are_refused_as_ever(self):
        with pytest.raises(RuntimeError, match="weight"):
            F.conv2d(make_tensor((2, 4, 8, 8)), make_tensor((4, 5, 3, 3)))
        assert auto.measured == []


class TestFile:
    @pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}', "\0"], ids=repr)
    def test_damage_is_set_aside(self, text, file, winner):
        winner("torch")
        file.parent.mkdir()
        file.write_text(text)
        with pytest.warns(RuntimeWarning, match="set aside as .*damaged"):
            assert chosen_for_pool(make_tensor((2, 4, 8, 8))) is TORCH
        assert file.with_suffix(".damaged").read_text() == text and len(json.loads(file.read_text())) == 1

    def test_an_unknown_backend_is_measured_anew(self, file, winner, monkeypatch):
        calls = winner("torch")
        chosen_for_pool(make_tensor((2, 4, 8, 8)))
        file.write_text(file.read_text().replace('"torch"', '"gone"'))
        forget(monkeypatch)
        assert chosen_for_pool(make_tensor((2, 4, 8, 8))) is TORCH and len(calls) == 2

    def test_a_folder_that_cannot_be_written_is_no_obstacle(self, tmp_path, monkeypatch, winner):
        winner("torch")
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("CNNEXT_CACHE", str(tmp_path / "file"))
        with pytest.warns(RuntimeWarning, match="cannot be (kept|read)"):
            assert chosen_for_pool(make_tensor((2, 4, 8, 8))) is TORCH

    def test_writers_at_the_same_time_lose_nothing(self, tmp_path):
        path = tmp_path / "t.json"
        tables = [Choices(path) for _ in range(8)]  # each has read it before any wrote

        def write(number):
            for i in range(10):
                tables[number].remember(f"{number} {i}", "x")

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(json.loads(path.read_text())) == {f"{number} {i}" for number in range(8) for i in range(10)}

    def test_other_versions_have_another_file(self, file, monkeypatch):
        monkeypatch.setattr(torch, "__version__", "99.0")
        assert auto.cache_file(torch.device("cpu"), torch.get_num_threads()) != file
