"""The backend ``"auto"``: what shares a choice, when nothing is measured, and what is remembered."""

import json
import subprocess
import sys
import threading

import pytest
import torch
from automatic import forget

import cnnext
import cnnext.functional as F
from cnnext import auto
from cnnext.backends import CPU, TORCH, choose, get
from cnnext.choices import Choices
from cnnext.testing import make_tensor

pytestmark = [
    pytest.mark.usefixtures("choices_file"),
    pytest.mark.skipif(cnnext.library.cpu_unavailable is not None, reason="there is no choice without a library"),
]


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


WEIGHTS = {
    "other values": (False, lambda weight: weight + 1),
    "other filters": (True, lambda weight: torch.cat([weight, weight])),
    "that learns": (True, lambda weight: weight.clone().requires_grad_()),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_weight(kind, winner):
    calls = winner("cpu")
    x, weight = make_tensor((2, 4, 8, 8)), make_tensor((3, 4, 3, 3), seed=1)
    F.conv2d(x, weight)
    anew, change = WEIGHTS[kind]
    F.conv2d(x, change(weight))
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


class TestFile:
    @pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}', "\0"], ids=repr)
    def test_damage_is_set_aside(self, text, choices_file, winner):
        winner("torch")
        choices_file.parent.mkdir()
        choices_file.write_text(text)
        with pytest.warns(RuntimeWarning, match="set aside as .*damaged"):
            assert chosen_for_pool(make_tensor((2, 4, 8, 8))) is TORCH
        assert (
            choices_file.with_suffix(".damaged").read_text() == text and len(json.loads(choices_file.read_text())) == 1
        )

    def test_an_unknown_backend_is_measured_anew(self, choices_file, winner, monkeypatch):
        calls = winner("torch")
        chosen_for_pool(make_tensor((2, 4, 8, 8)))
        choices_file.write_text(choices_file.read_text().replace('"torch"', '"gone"'))
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

    def test_other_versions_have_another_file(self, choices_file, monkeypatch):
        monkeypatch.setattr(torch, "__version__", "99.0")
        assert auto.cache_file(torch.device("cpu"), torch.get_num_threads()) != choices_file
