import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parent.parent / "bench/bench_models.py"


@pytest.fixture
def bench_models():
    spec = importlib.util.spec_from_file_location("bench_models", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_prints_a_line_for_each_model(bench_models, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["bench_models.py", "lenet", "--batch-size", "4", "--seconds", "0"])
    assert bench_models.main() == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("lenet")
    assert "ratio" in line


def test_fails_where_the_losses_do_not_agree(bench_models, monkeypatch):
    monkeypatch.setattr(bench_models, "AGREE", 0.0)
    monkeypatch.setattr("sys.argv", ["bench_models.py", "lenet", "--batch-size", "4", "--seconds", "0"])
    assert bench_models.main() == 1


def test_unknown_model_is_refused(bench_models, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["bench_models.py", "alexnet"])
    with pytest.raises(SystemExit, match="2"):
        bench_models.main()
    assert "'alexnet' is unknown" in capsys.readouterr().err
